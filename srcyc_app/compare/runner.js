// The form that has a scan super-resolved.

import { Refused, superResolve } from "./server.js";

/** Options that the form offers at once, if the server has them; the others are behind "More options". */
const FIRST = ["slice_thickness", "correct_slices", "uncertainty", "store"];

/** Options that the form has elements of its own for, and those of no use here: the page draws no map but one. */
const ELSEWHERE = ["weights", "target_spacing", "device", "precision", "result_dtype", "result_extension", "correction_map"];

const STATES = { queued: "Waiting for its turn", running: "Computing", done: "Receiving the result" };

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

export class Runner {
  #models = {};
  #running = null;

  /**
   * @param {(image: string, made: {buffer: ArrayBuffer, report: object}) => Promise<void>} done
   * @param {(text: string) => void} say
   * @param {(error: Error) => void} complain
   */
  constructor(done, say, complain) {
    this.image = null;
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
    const { weights, cards, options } = server;
    this.#models = cards;
    $("weights").replaceChildren(...weights.map((name) => new Option(name, name)));
    $("start").disabled = weights.length === 0;
    if (typeof options.target_spacing === "string") $("spacing").value = options.target_spacing;
    const more = Object.keys(options).filter((name) => ![...FIRST, ...ELSEWHERE].includes(name));
    $("switches").replaceChildren(...inputs(FIRST, server));
    $("more").replaceChildren(...inputs(more, server));
    this.#showCard();
  }

  async run() {
    if (this.#running || !this.image) return;
    const image = this.image;
    const wishes = { target_spacing: $("spacing").value.trim(), weights: $("weights").value };
    for (const box of $("run").querySelectorAll("[type=checkbox]")) wishes[box.name] = box.checked;
    for (const field of $("run").querySelectorAll("[type=number]")) wishes[field.name] = field.value;
    this.#running = new AbortController();
    this.#show(true);
    this.say(`Sending ${image} …`);
    const tell = (state, share) => {
      // Said once each; the numbers change without being read out.
      if (STATES[state]) this.say(`${STATES[state]} …`);
      if (state !== "running") return;
      $("progress").value = share;
      $("percent").textContent = `${Math.round(100 * share)} %`;
    };
    try {
      const made = await superResolve(image, wishes, tell, this.#running.signal);
      await this.done(image, made);
    } catch (error) {
      if (error.name === "AbortError") {
        this.say("Cancelled.");
      } else {
        this.say("");
        this.complain(error instanceof Refused ? error : new Error(`The result cannot be shown: ${error.message}`));
      }
    } finally {
      this.#running = null;
      this.#show(false);
    }
  }

  #show(running) {
    $("start").disabled = running;
    $("cancel").hidden = !running;
    $("progress-box").hidden = !running;
    $("progress").removeAttribute("value");
    $("percent").textContent = "";
    // The button that had the focus is gone: the other one gets it.
    if (running) $("cancel").focus();
    else if ([document.body, $("cancel")].includes(document.activeElement)) $("start").focus();
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
