// The keyboard. What each key does is also in the page's help.

/** How the arrow keys move the crosshair along R, A, S: the patient's right is on the left of the screen. */
const ARROWS = {
  axial: { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0] },
  coronal: { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1] },
  sagittal: { ArrowLeft: [0, 1, 0], ArrowRight: [0, -1, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1] },
};

/**
 * @param {import("./view.js").View} view
 * @param {Object<string, () => void>} commands by key: those that change the controls of the page
 */
export function listen(view, commands) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    // Fields, lists and sliders keep their own keys.
    if (event.target.closest("input, select, textarea, dialog, summary")) return;
    const arrow = ARROWS[view.active][event.key];
    if (arrow || event.key === "PageUp" || event.key === "PageDown") {
      // Elsewhere on the page these keys scroll.
      if (!view.original.filled || !event.target.closest("canvas, body")) return;
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
