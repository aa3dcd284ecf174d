// The keyboard. What each key does is also in the page's help.

/** How the arrow keys move the crosshair along R, A, S: the patient's right is on the left of the screen. */
const ARROWS = {
  axial: { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0] },
  coronal: { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1] },
  sagittal: { ArrowLeft: [0, 1, 0], ArrowRight: [0, -1, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1] },
};

/** What keeps the keys to itself as long as it has the focus: text is typed there, or it is open over the page. */
const TYPED = "select, textarea, dialog, summary, input:not([type=radio], [type=checkbox], [type=range], [type=file])";
/** What is done with when it has been clicked. */
const PRESSED = "button, summary, input:is([type=radio], [type=checkbox], [type=range], [type=file])";
/** What arrows are for, where somebody came with the Tab key. */
const OWN_ARROWS = "input";

/**
 * @param {import("./view.js").View} view
 * @param {HTMLElement} canvas gets the keys after a click anywhere
 * @param {Object<string, () => void>} commands by key: those that change the controls of the page
 */
export function listen(view, canvas, commands) {
  let pointing = false;
  document.addEventListener("pointerdown", () => (pointing = true), true);
  document.addEventListener("keydown", () => (pointing = false), true);
  // Whoever clicks a button or ticks a box goes on in the picture: the arrows shall not move the ticks.
  const giveBack = (event) => {
    const focused = document.activeElement;
    const done = focused.matches(PRESSED) || (event.type === "change" && focused.matches("select"));
    if (pointing && done && !focused.closest("dialog")) canvas.focus({ preventScroll: true });
  };
  document.addEventListener("click", giveBack);
  document.addEventListener("change", giveBack);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.closest(TYPED)) return;
    const arrow = ARROWS[view.active][event.key];
    if (arrow || event.key === "PageUp" || event.key === "PageDown") {
      if (!view.original.filled || event.target.closest(OWN_ARROWS)) return;
      event.preventDefault();
      if (arrow) {
        view.step(arrow, event.shiftKey);
      } else {
        view.turn(event.key === "PageUp" ? 1 : -1, event.shiftKey);
      }
    } else if (Object.hasOwn(commands, event.key)) {
      event.preventDefault();
      commands[event.key]();
    }
  });
}
