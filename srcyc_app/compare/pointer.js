// Mouse, touch and wheel over the panes.

const WHEEL_STEP = 60;
/** Share of the window per pixel that the right button is dragged. */
const WINDOWING = 1 / 300;
/** Pixels that a finger moves per slice, and within which it only points. */
const SWIPE_STEP = 9;
const STILL = 8;

/**
 * @param {HTMLElement} canvas
 * @param {import("./pane.js").Pane} pane
 * @param {import("./view.js").View} view
 */
export function listen(canvas, pane, view) {
  const touching = new Map();
  let dragging = null;
  let wheel = 0;
  /** Where a finger began, and how many slices it has turned. */
  let swipe = null;

  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    return pane.under(event.clientX - box.left, event.clientY - box.top);
  };

  const point = (event) => {
    const found = under(event);
    if (!found?.inside || !view.scan.contains(found.mm)) return;
    view.active = found.plane;
    view.moveTo(found.mm);
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    if (!pane.filled) return;
    canvas.setPointerCapture(event.pointerId);
    touching.set(event.pointerId, event);
    if (touching.size === 2) {
      dragging = "pinch";
    } else if (event.pointerType === "touch") {
      dragging = "swipe";
      swipe = { x: event.clientX, y: event.clientY, plane: under(event)?.plane, turned: 0, moved: false };
    } else if (event.button === 1 || (event.button === 0 && event.shiftKey)) {
      dragging = "pan";
      event.preventDefault();
    } else {
      dragging = event.button === 2 ? "window" : "point";
      if (dragging === "point") point(event);
    }
  });

  canvas.addEventListener("pointermove", (event) => {
    const before = touching.get(event.pointerId);
    if (!before) return;
    if (dragging === "point") point(event);
    if (dragging === "swipe" && swipe.plane) {
      const [across, down] = [event.clientX - swipe.x, event.clientY - swipe.y];
      swipe.moved ||= Math.hypot(across, down) > STILL;
      // Up or to the left: on to the next slice, as one scrolls on in a text.
      const steps = Math.trunc((Math.abs(down) > Math.abs(across) ? -down : -across) / SWIPE_STEP);
      if (swipe.moved && steps !== swipe.turned) {
        view.active = swipe.plane;
        view.turn(steps - swipe.turned, false);
        swipe.turned = steps;
      }
    }
    if (dragging === "window") {
      const [low, high] = view.window;
      const width = (high - low) * Math.exp((event.clientX - before.clientX) * WINDOWING);
      const level = (low + high) / 2 + (event.clientY - before.clientY) * (high - low) * WINDOWING;
      view.setWindow(level - width / 2, level + width / 2);
    }
    if (dragging === "pan" || dragging === "pinch") {
      const [from, to] = [under(before), under(event)];
      const part = dragging === "pinch" ? 0.5 : 1;
      if (from && to && from.plane === to.plane) view.pan(from.mm.map((mm, axis) => part * (mm - to.mm[axis])));
    }
    if (dragging === "pinch" && touching.size === 2) {
      const other = [...touching].find(([id]) => id !== event.pointerId)[1];
      const gap = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY) || 1;
      view.zoom(gap(event) / gap(before), under(other)?.mm);
    }
    touching.set(event.pointerId, event);
  });

  const end = (event) => {
    touching.delete(event.pointerId);
    // A finger that did not move has pointed.
    if (dragging === "swipe" && !swipe.moved && event.type === "pointerup") point(event);
    if (touching.size === 0) dragging = null;
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());

  canvas.addEventListener(
    "wheel",
    (event) => {
      const found = under(event);
      if (!found) return;
      event.preventDefault();
      if (event.ctrlKey || event.metaKey) {
        view.zoom(Math.exp(-event.deltaY / 300), found.mm);
        return;
      }
      wheel += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : event.deltaY * WHEEL_STEP;
      const steps = Math.trunc(wheel / WHEEL_STEP);
      wheel -= steps * WHEEL_STEP;
      view.active = found.plane;
      if (steps) view.turn(-steps, event.shiftKey);
    },
    { passive: false },
  );
}
