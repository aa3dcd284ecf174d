// The form that has a scan super-resolved.

import { Refused, superResolve } from "./server.js";

/** Options that the form offers at once, if the server has them; the others are behind "More options". */
const FIRST = ["slice_thickness", "correct_slices", "uncertainty", "store"];

/** Options that the form has elements of its own for, and those of no use here: the page draws no map but one. */
const ELSEWHERE = ["weights", "target_spacing", "device", "precision", "result_dtype", "result_extension", "correction_map", "labels"];

const STATES = { queued: "Waiting for its turn", running: "Computing", done: "Receiving the result" };

/** Share done and seconds passed before the page tells how long it will take. */
const TELLING = [0.08, 2];

const $ = (id) => document.getElementById(id);

/** Inputs for some of the server's options: check boxes for switches, fields for numbers; labels are the server's. */
function inputs(names, { options, described }) {
  return names
    .filter((name) => name in options && ["switch", "number"].includes(described[name]?.kind))
    .map((name) => {
      const { label, help, kind, empty } = described[name];
      const row = Object.assign(document.createElement("label"), { title: help });
      const input = Object.assign(document.createElement("input"), { name });
      if (kind === "switch") {
        row.append(Object.assign(input, { type: "checkbox", checked: options[name] === true }), label);
      } else {
        Object.assign(input, { type: "number", min: "0", step: "any", value: options[name], placeholder: empty });
        row.append(label, input);
      }
      return row;
    });
}

/** Words for some seconds. */
const lasting = (seconds) =>
  seconds < 90 ? `${Math.max(1, Math.round(seconds))}\u00a0s left` : `${Math.round(seconds / 60)}\u00a0min left`;

export class Runner {
  #models = {};
  #labels = {};
  #running = null;
  #began = 0;

  /**
   * @param {(scan: object, made: {buffer: ArrayBuffer, report: object}) => Promise<void>} done
   * @param {(text: string) => void} say
   * @param {(error: Error|null) => void} complain
   */
  constructor(done, say, complain) {
    this.scan = null;
    this.done = done;
    this.say = say;
    this.complain = complain;
    $("run").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    $("cancel").addEventListener("click", () => this.#running?.abort());
    $("weights").addEventListener("change", () => this.#showCard());
  }

  /** Offer what the server has. */
  offer(server) {
    const { weights, cards, options, described } = server;
    this.#models = cards;
    this.#labels = Object.fromEntries(Object.entries(described).map(([name, { label }]) => [name, label]));
    $("weights").replaceChildren(...weights.map((name) => new Option(name, name)));
    $("start").disabled = weights.length === 0;
    if (typeof options.target_spacing === "string") $("spacing").value = options.target_spacing;
    const more = Object.keys(options).filter((name) => ![...FIRST, ...ELSEWHERE].includes(name));
    $("switches").replaceChildren(...inputs(FIRST, server));
    $("more").replaceChildren(...inputs(more, server));
    this.#showCard();
  }

  async run() {
    if (this.#running || !this.scan) return;
    const scan = this.scan;
    const wishes = { target_spacing: $("spacing").value.trim(), weights: $("weights").value };
    for (const box of $("run").querySelectorAll("[type=checkbox]")) wishes[box.name] = box.checked;
    for (const field of $("run").querySelectorAll("[type=number]")) wishes[field.name] = field.value;
    const { signal } = (this.#running = new AbortController());
    this.#began = 0;
    this.complain(null);
    this.#show(true);
    $("progress-of").textContent = scan.name ?? scan.id;
    $("progress-text").textContent = "Sending …";
    this.say(`Sending ${scan.name ?? scan.id} …`);
    try {
      const made = await superResolve(scan, wishes, (progress) => this.#tell(progress), signal);
      await this.done(scan, made);
    } catch (error) {
      if (signal.aborted) {
        this.say("Cancelled.");
      } else if (error.name !== "AbortError") {
        // Else something else was chosen while the result was loaded, which is in the list.
        this.say("");
        this.complain(error instanceof Refused ? this.#plain(error) : new Error(`The result cannot be shown: ${error.message}`));
      }
    } finally {
      this.#running = null;
      this.#show(false);
    }
  }

  /** Tell how far it is, where the result will be. */
  #tell({ state, share, position }) {
    // Said once each; the numbers change without being read out.
    if (STATES[state]) this.say(`${STATES[state]} …`);
    const parts = [STATES[state] ?? ""];
    if (state === "queued" && position > 0) parts.push(position === 1 ? "1 before it" : `${position} before it`);
    if (state === "running") {
      $("progress").value = share;
      parts.push(`${Math.round(100 * share)} %`);
      const now = performance.now() / 1000;
      this.#began ||= now;
      const passed = now - this.#began;
      if (share > TELLING[0] && passed > TELLING[1]) parts.push(`about ${lasting((passed * (1 - share)) / share)}`);
    } else {
      $("progress").removeAttribute("value");
    }
    $("progress-text").textContent = parts.filter(Boolean).join(", ");
  }

  /** The server's sentence with the form's labels in place of the names that programs use. */
  #plain(error) {
    const names = Object.keys(this.#labels).filter((name) => name.includes("_"));
    const text = names.reduce((said, name) => said.replaceAll(name, `“${this.#labels[name]}”`), error.message);
    return new Refused(text, error.status);
  }

  #show(running) {
    $("start").disabled = running;
    $("progress-box").hidden = !running;
    // What else is to be said of the result waits.
    $("stage").classList.toggle("running", running);
    $("progress").removeAttribute("value");
    // The button that had the focus is gone: the other one gets it.
    if (running) $("cancel").focus({ preventScroll: true });
    else if ([document.body, $("cancel")].includes(document.activeElement)) $("start").focus({ preventScroll: true });
  }

  #showCard() {
    const card = this.#models[$("weights").value];
    const range = card?.spacing_range ? `voxels of ${card.spacing_range.join(" to ")} mm` : "";
    const factor = card?.factor_range ? `${card.factor_range.join(" to ")} times` : "";
    $("card").textContent = card
      ? [card.title, card.contrasts?.length ? `for ${card.contrasts.join(", ")}` : "", range, factor].filter(Boolean).join("; ")
      : "";
  }
}
