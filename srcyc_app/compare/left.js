// What the left pane may show: the scan, what needs no network, another result, another image.

import { Refused, fetchBaseline, fetchVolume } from "./server.js";
import { Volume } from "./volume.js";

/** Of the scan itself: in the list, in captions, and whether a result's grid is needed for it. */
export const BASELINES = {
  nearest: {
    choice: "As measured (nearest voxel)",
    title: "Original",
    how: "as measured: nearest voxel",
    subtrahend: "the original, nearest voxel",
    needsResult: false,
  },
  linear: {
    choice: "Linear interpolation",
    title: "Original",
    how: "linear interpolation, as most viewers show it",
    subtrahend: "linear interpolation",
    needsResult: false,
  },
  cubic: {
    choice: "Cubic B-spline",
    title: "Cubic B-spline",
    how: "of the original, on the result's grid",
    subtrahend: "cubic B-spline",
    needsResult: true,
  },
  classical: {
    choice: "Classical inverse (no network)",
    title: "Classical inverse",
    how: "slice profile undone, no network; on the result's grid",
    subtrahend: "classical inverse",
    needsResult: true,
  },
};

/** The two parts of a choice, `result:KEY` or `image:ID`. */
export const partsOf = (choice) => [choice.slice(0, choice.indexOf(":")), choice.slice(choice.indexOf(":") + 1)];

/** Degrees between the axes of two images from which on their planes count as different. */
const TILTED = 1;
/** Share of the result that another image has to cover to be compared without a word. */
const COVERED = 0.9;

export class Left {
  choice = "nearest";
  /** What is to be known of it. */
  warnings = [];

  #scan = null;
  #original = null;
  #report = null;
  #result = null;
  /** What was computed or fetched for the result that is shown, by choice. */
  #known = new Map();
  #told = BASELINES.nearest;

  get title() {
    return this.#told.title;
  }

  get how() {
    return this.#told.how;
  }

  /** What is subtracted, in a sentence. */
  get subtrahend() {
    return this.#told.subtrahend;
  }

  /** Another scan. */
  begin(scan, volume) {
    [this.#scan, this.#original, this.#report, this.#result] = [scan, volume, null, null];
    this.#known.clear();
    this.#tell("nearest", BASELINES.nearest);
  }

  /** Another result of it, in whose grid interpolations are wanted. */
  for(report, volume) {
    [this.#report, this.#result] = [report, volume];
    this.#known.clear();
  }

  /** Tell whether a choice can be shown at once. */
  has(choice) {
    return choice === "nearest" || choice === "linear" || this.#known.has(choice);
  }

  /**
   * Get what is to be shown.
   * @param {string} choice one of the baselines, `result:KEY` or `image:ID`
   * @returns {Promise<Volume>}
   */
  async choose(choice, { results, scans, signal }) {
    if (choice === "nearest" || choice === "linear") {
      this.#tell(choice, BASELINES[choice]);
      return this.#original;
    }
    if (this.#result === null) throw new Refused("There is no super-resolved version to compare it with yet: press Run.");
    const known = this.#known.get(choice) ?? (await this.#make(choice, results, scans, signal));
    signal.throwIfAborted();
    this.#known.set(choice, known);
    this.#tell(choice, known.told, known.warnings);
    return known.volume;
  }

  #tell(choice, told, warnings = []) {
    [this.choice, this.#told, this.warnings] = [choice, told, warnings];
  }

  async #make(choice, results, scans, signal) {
    if (Object.hasOwn(BASELINES, choice)) return this.#baseline(choice, signal);
    const [kind, key] = partsOf(choice);
    if (kind === "result") {
      const other = results.find(this.#scan.id, key);
      if (other) return this.#other(other.name, other.report?.model?.name, await results.volume(other, signal), false, signal);
    }
    if (kind === "image") {
      const other = scans.find(({ id, error }) => id === key && !error);
      if (other) return this.#other(key, null, await Volume.read(await fetchVolume(other, signal)), true, signal);
    }
    throw new Refused(`“${key || choice}” is not there to compare with. Choose something of the list.`);
  }

  async #baseline(method, signal) {
    const thickness = this.#report?.thickness?.millimetres;
    const shape = this.#result.fileShape;
    const volume = await Volume.read(await fetchBaseline(this.#scan, method, shape, thickness, signal));
    return { volume, told: BASELINES[method], warnings: [] };
  }

  /** Another volume, if it lies where the result lies. */
  async #other(name, model, volume, foreign, signal) {
    const covered = this.#result.coveredBy(volume);
    if (covered === 0) {
      throw new Refused(`“${name}” lies elsewhere: no place of the result is in it, so there is nothing to compare.`);
    }
    const warnings = [];
    if (covered < COVERED) warnings.push(`“${name}” covers ${Math.round(100 * covered)} % of the result; the rest is not compared.`);
    let how = "on its own grid: nearest voxel";
    if (foreign) {
      const matched = volume.matchTo(this.#result);
      warnings.push(
        matched
          ? `“${name}” is another image: nothing is registered here, its place is what its file says; its intensities were matched to the result's by a straight line.`
          : `“${name}” is another image, and its intensities have nothing to do with the result's: look at shapes, not at the difference.`,
      );
      if (matched) how += ", intensities matched";
    }
    const tilt = volume.tilt(this.#result);
    if (tilt > TILTED) {
      const values = await this.#result.asked(volume, "linear", signal);
      volume = await this.#result.like(values, "gray");
      how = `tilted by ${tilt.toFixed(0)}°: brought to the result's grid by linear interpolation`;
    }
    return {
      volume,
      warnings,
      told: { title: model ? `${name} (${model})` : name, how, subtrahend: name },
    };
  }
}
