// What the panes show: one place in the world, one magnification, one window. None leads: NiiVue's own linking follows
// whichever canvas has the focus, and in the coordinates of its volume.

import { THROUGH } from "./pane.js";

const ZOOM = [0.5, 40];
/** Share of voxels whose difference may be beyond the last colour. */
const BEYOND = 0.005;

export class View extends EventTarget {
  /** The scan that all is about, whatever the left pane shows; null: none is loaded. */
  scan = null;
  /** Where the crosshair is, R A S mm. */
  at = [0, 0, 0];
  /** Intensities that are black and white. */
  window = [0, 1];
  /** Differences that have the last colours. */
  limit = 1;
  plane = "sagittal";
  /** The plane that the arrow keys mean where all three are shown. */
  active = "sagittal";
  /** Whether the left pane is drawn voxel by voxel. */
  nearest = true;
  /** Whether the difference is seen in place of the result. */
  subtracting = false;

  #centre = [0, 0, 0];
  #zoom = 1;
  #waiting = false;

  /**
   * @param {import("./pane.js").Pane} original the left one
   * @param {import("./pane.js").Pane} result
   * @param {import("./pane.js").Pane} difference in the place of the result's
   */
  constructor(original, result, difference) {
    super();
    this.original = original;
    this.result = result;
    this.difference = difference;
    // Neither is ever smoothed by the screen: what looks finer is in the voxels.
    result.setNearest(true);
    difference.setNearest(true);
  }

  /** Those that are seen: left, right. */
  get panes() {
    const right = this.subtracting && this.difference.filled ? this.difference : this.result;
    return [this.original, right].filter((pane) => pane.filled);
  }

  /** The finest grid there is: the result's. */
  get fine() {
    return this.result.volume ?? this.scan;
  }

  /** Another scan comes: what was loaded is seen no more. */
  end() {
    this.scan = null;
    this.original.empty();
  }

  /** See a new scan from its middle. */
  begin(scan, at = null) {
    this.scan = scan;
    this.at = at && scan.contains(at) ? at : scan.moved(scan.centre, [0, 0, 0]);
    this.window = scan.range;
    this.setPlane(this.plane);
    this.fit();
  }

  /** See all of it. */
  fit() {
    if (!this.scan) return;
    this.#centre = this.scan.centre;
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

  /** Show a difference, or none. */
  subtract(volume) {
    if (volume) {
      this.limit = volume.limit(BEYOND) || 1;
      this.difference.fill(volume);
    } else {
      this.difference.empty();
    }
    this.draw();
  }

  moveTo(mm) {
    this.at = mm;
    this.draw();
  }

  /** Move by voxels of the finest grid there is, or by the scan's own. */
  step(voxels, coarse) {
    const moved = (coarse ? this.scan : this.fine).moved(this.at, voxels);
    if (this.scan.contains(moved)) this.moveTo(moved);
  }

  /** Move through the slices of the active plane. */
  turn(count, coarse) {
    this.step([0, 1, 2].map((axis) => (axis === THROUGH[this.active] ? count : 0)), coarse);
  }

  /** Go to a slice of the active plane, counted from 0. */
  turnTo(slice) {
    const axis = THROUGH[this.active];
    this.turn(slice - this.fine.voxel(this.at)[axis], false);
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
    if (!this.scan || !this.original.filled) return;
    this.original.setNearest(this.nearest);
    for (const pane of this.panes) {
      pane.setWindow(pane === this.difference ? [-this.limit, this.limit] : this.window);
      pane.setPlane(this.plane);
    }
    // The right pane's volume fills what the scan fills; the left one's may be another image.
    const scale = this.#zoom * this.panes.at(-1).fit;
    for (const pane of this.panes) pane.place(this.at, this.#centre, scale);
    this.dispatchEvent(new Event("drawn"));
  }
}
