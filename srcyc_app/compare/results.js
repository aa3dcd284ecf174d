// What there is of each scan: results that the server keeps, and those that were made here and are not kept.

import { fetchFile, fetchMap, fetchVolume } from "./server.js";
import { Volume } from "./volume.js";

/** Results that are not kept are remembered, of each scan, up to this many: each may take 100 MB. */
const REMEMBERED = 4;

/** In front of the key of what is not kept: no id has it. */
const MADE = "*";

export class Results {
  #kept = [];
  /** By scan: newest first. */
  #made = new Map();
  #count = 0;

  /** Take up what the server lists. */
  list(scans) {
    this.#kept = scans
      .filter(({ madeFrom, error }) => madeFrom && !error)
      .map(({ id, madeFrom, report, spacing, maps }) => {
        return { key: id, id, scan: madeFrom, name: id, kept: true, hasMap: maps.includes("uncertainty"), report, spacing };
      });
  }

  /** A result that is not kept has arrived; give its key. */
  add(scan, buffer, report, map) {
    const made = this.#made.get(scan.id) ?? [];
    const number = ++this.#count;
    made.unshift({
      key: `${MADE}${number}`,
      scan: scan.id,
      name: made.length ? `just made (${number})` : "just made",
      kept: false,
      hasMap: Boolean(map),
      report,
      buffer,
      map,
    });
    this.#made.set(scan.id, made.slice(0, REMEMBERED));
    return made[0].key;
  }

  /** List those of a scan: made here first. */
  of(scan) {
    return [...(this.#made.get(scan) ?? []), ...this.#kept.filter((result) => result.scan === scan)];
  }

  find(scan, key) {
    return this.of(scan).find((result) => result.key === key);
  }

  /** Give a result's volume; one that the server does not keep is here. */
  async volume(result, signal) {
    return Volume.read(result.buffer ?? (await fetchVolume(result, signal)));
  }

  /** Give the map that was made with a result; null: there is none. */
  async map(result, signal) {
    if (!result.hasMap) return null;
    return Volume.read(result.map ?? (await fetchMap(result, signal)), "inferno");
  }

  /** Give the file of a result, and a name for it: it says within itself how it was made. */
  async file(result, signal) {
    if (!result.buffer) return fetchFile(result, signal);
    const stem = (result.report?.output ?? result.name).replace(/\.(nii|nii\.gz|nrrd|mha)$/i, "");
    return { name: `${stem}.nii`, buffer: result.buffer };
  }
}
