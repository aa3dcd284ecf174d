// The form that has a scan super-resolved.

import { Refused, superResolve } from "./server.js";

/** Switches of the server's options that the form offers, if the server has them. */
const SWITCHES = {
  uncertainty: "Map of uncertainty as well",
  store: "Keep the result in the studies folder",
};

/** Those that few need. */
const MORE = {
  consistency: "Correct towards the scan",
  denoise: "Smooth noise first",
  n4: "Correct the bias field first",
  force: "Go on far outside the model's range",
};

const STATES = { queued: "Waiting for its turn", running: "Computing", done: "Receiving the result" };

const $ = (id) => document.getElementById(id);

/** Check boxes for those of some switches that the server has, as the server has them. */
function boxes(switches, options) {
  return Object.entries(switches)
    .filter(([name]) => typeof options[name] === "boolean")
    .map(([name, text]) => {
      const label = document.createElement("label");
      const checked = options[name];
      label.append(Object.assign(document.createElement("input"), { type: "checkbox", name, checked }), text);
      return label;
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
  offer({ weights, cards, options }) {
    this.#models = cards;
    $("weights").replaceChildren(...weights.map((name) => new Option(name, name)));
    $("start").disabled = weights.length === 0;
    if (typeof options.target_spacing === "string") $("spacing").value = options.target_spacing;
    $("switches").replaceChildren(...boxes(SWITCHES, options));
    $("more").replaceChildren(...boxes(MORE, options));
    this.#showCard();
  }

  async run() {
    if (this.#running || !this.image) return;
    const image = this.image;
    const wishes = { target_spacing: $("spacing").value.trim(), weights: $("weights").value };
    for (const box of $("run").querySelectorAll("[type=checkbox]")) wishes[box.name] = box.checked;
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
