// What both panes show: one place in the world, one magnification, one window. Neither leads: NiiVue's own linking
// follows whichever canvas has the focus, and in the coordinates of its volume.

import { THROUGH } from "./pane.js";

const ZOOM = [0.5, 40];

export class View extends EventTarget {
  /** Where the crosshair is, R A S mm. */
  at = [0, 0, 0];
  /** Intensities that are black and white. */
  window = [0, 1];
  plane = "axial";
  /** The plane that the arrow keys mean where all three are shown. */
  active = "axial";
  nearest = true;

  #centre = [0, 0, 0];
  #zoom = 1;
  #waiting = false;

  /**
   * @param {import("./pane.js").Pane} original
   * @param {import("./pane.js").Pane} result
   */
  constructor(original, result) {
    super();
    this.original = original;
    this.result = result;
    // The result is never smoothed by the screen: what looks finer in it is in its voxels.
    result.setNearest(true);
  }

  get panes() {
    return [this.original, this.result].filter((pane) => pane.filled);
  }

  /** See a new scan from its middle. */
  begin(at = null) {
    this.at = at && this.original.contains(at) ? at : this.original.moved(this.original.centre, [0, 0, 0]);
    this.window = this.original.range;
    this.setPlane(this.plane);
    this.fit();
  }

  /** See all of it. */
  fit() {
    this.#centre = this.original.centre;
    this.#zoom = 1;
    this.draw();
  }

  setPlane(plane) {
    this.plane = plane;
    this.active = plane === "all" ? this.active : plane;
    this.draw();
  }

  setNearest(nearest) {
    this.nearest = nearest;
    this.draw();
  }

  setWindow(low, high) {
    this.window = [low, Math.max(high, low + 1e-6 * Math.max(1, Math.abs(low)))];
    this.draw();
  }

  moveTo(mm) {
    this.at = mm;
    this.draw();
  }

  /** Move by voxels of the finest grid there is, or by the scan's own. */
  step(voxels, coarse) {
    const pane = coarse || !this.result.filled ? this.original : this.result;
    const moved = pane.moved(this.at, voxels);
    if (this.original.contains(moved)) this.moveTo(moved);
  }

  /** Move through the slices of the active plane. */
  turn(count, coarse, plane = this.active) {
    this.step([0, 1, 2].map((axis) => (axis === THROUGH[plane] ? count : 0)), coarse);
  }

  pan(by) {
    this.#centre = this.#centre.map((mm, axis) => mm + by[axis]);
    this.draw();
  }

  /** Magnify; what is at a place stays where it is on the screen. */
  zoom(factor, around = this.at) {
    const before = this.#zoom;
    this.#zoom = Math.min(Math.max(before * factor, ZOOM[0]), ZOOM[1]);
    const share = before / this.#zoom;
    this.#centre = this.#centre.map((mm, axis) => around[axis] + (mm - around[axis]) * share);
    this.draw();
  }

  /** Draw soon: however much changes until then, once. */
  draw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #draw() {
    if (!this.original.filled) return;
    this.original.setNearest(this.nearest);
    for (const pane of this.panes) {
      pane.setWindow(this.window);
      pane.setPlane(this.plane);
    }
    const scale = this.#zoom * this.original.fit;
    for (const pane of this.panes) pane.place(this.at, this.#centre, scale);
    this.dispatchEvent(new Event("drawn"));
  }
}
