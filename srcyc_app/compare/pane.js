// One NiiVue canvas with one volume, drawn voxel for voxel on the volume's own grid.

import { MULTIPLANAR_TYPE, Niivue, SHOW_RENDER, SLICE_TYPE } from "./niivue.js";

const PLANES = {
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  all: SLICE_TYPE.MULTIPLANAR,
};

/** World axis (0 R, 1 A, 2 S) that is perpendicular to a plane. */
export const THROUGH = { sagittal: 0, coronal: 1, axial: 2 };

const NAMES = Object.fromEntries(Object.entries(PLANES).map(([name, type]) => [type, name]));

/** Colours of a difference: black is none, and of the two directions neither is taken for the other by the colour-blind. */
export const DIFFERENCE = "difference";
const DIFFERENCE_COLOURS = {
  R: [120, 20, 0, 240, 255],
  G: [200, 90, 0, 120, 225],
  B: [255, 220, 0, 10, 140],
  A: [255, 255, 255, 255, 255],
  I: [0, 64, 128, 192, 255],
};
/** Colours of a map over the result. */
export const COVER = "inferno";

/** NiiVue's number for a map that is the more transparent the less it says. */
const FADING = 1;

const CROSSHAIR_PIXELS = 1.2;
const GAP_PIXELS = 7;

export class Pane {
  #viewer;
  #volume = null;
  #calibrated = "";
  #pixelsPerMm = 1;

  /** Use {@link Pane.on}. */
  constructor(viewer) {
    this.#viewer = viewer;
  }

  /**
   * @param {HTMLCanvasElement} canvas its parent gives the size
   * @throws {Error} the browser has no WebGL 2
   */
  static async on(canvas) {
    const viewer = new Niivue({
      // What NiiVue itself does with mouse and keys (3D rendering, dropping of files) is not for this page.
      interactive: false,
      dragAndDropEnabled: false,
      logLevel: "error",
      loadingText: "",
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarLayout: MULTIPLANAR_TYPE.GRID,
      multiplanarPadPixels: 4,
      // As radiologists have it: the patient's right on the left, the nose to the left.
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      // Slices as they were acquired, also of an oblique scan.
      isSliceMM: false,
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.2, 0.85, 0.95, 1],
      crosshairWidthUnit: "mm",
      // The page has letters of its own: NiiVue's are cut off at the edges.
      isOrientationTextVisible: false,
    });
    viewer.addColormap(DIFFERENCE, DIFFERENCE_COLOURS);
    await viewer.attachToCanvas(canvas, false);
    return new Pane(viewer);
  }

  /** What is shown; null: nothing. */
  get volume() {
    return this.#volume;
  }

  get filled() {
    return this.#volume !== null;
  }

  get canvas() {
    return this.#viewer.canvas;
  }

  /** Show a volume in place of what was there. */
  fill(volume) {
    this.empty();
    this.#viewer.addVolume(volume.image);
    this.#volume = volume;
    this.#calibrated = "";
  }

  empty() {
    while (this.#viewer.volumes.length > 0) this.#viewer.removeVolume(this.#viewer.volumes.at(-1));
    this.#volume = null;
  }

  /**
   * Lay a map over the volume, until that goes; both have one grid, so that nothing is resampled.
   * @param {import("./volume.js").Volume} map
   * @returns {number[]} values from which on it is seen, and that have the last colour
   */
  cover({ image }) {
    [image.cal_min, image.cal_max] = [0.3 * image.robust_max, image.robust_max];
    image.colormapType = FADING;
    this.#viewer.addVolume(image);
    return [image.cal_min, image.cal_max];
  }

  setCoverOpacity(opacity) {
    if (this.#viewer.volumes.length > 1) this.#viewer.setOpacity(1, opacity);
  }

  /** The colours of a map as CSS has them, from its least to its greatest value. */
  colours(colormap) {
    const table = this.#viewer.colormap(colormap);
    return Array.from({ length: 17 }, (_, n) => `rgb(${table.slice(4 * Math.min(16 * n, 255)).slice(0, 3).join(" ")})`);
  }

  // -- how it is drawn -----------------------------------------------------------------------------------------------

  setPlane(name) {
    this.#viewer.setSliceType(PLANES[name]);
  }

  setNearest(nearest) {
    this.#viewer.setInterpolation(nearest);
  }

  /** Set the intensities that are black and white, in what is drawn. */
  setWindow([low, high]) {
    const wanted = `${low} ${high}`;
    if (!this.filled || wanted === this.#calibrated) return;
    this.#calibrated = wanted;
    const { image, gain, offset } = this.#volume;
    image.cal_min = (low - offset) / gain;
    image.cal_max = (high - offset) / gain;
    this.#viewer.updateGLVolume();
  }

  /** Screen pixels per mm if the whole volume is to be seen. */
  get fit() {
    const tile = this.#viewer.screenSlices[0];
    return tile.leftTopWidthHeight[2] / Math.abs(tile.fovMM[0]) / this.#viewer.scene.pan2Dxyzmm[3];
  }

  /** Where each plane is in the pane, CSS pixels: `{plane, left, top, width, height}`. */
  get tiles() {
    const ratio = this.#viewer.uiData.dpr;
    return this.#viewer.screenSlices.map(({ leftTopWidthHeight, axCorSag }) => {
      const [left, top, width, height] = leftTopWidthHeight.map((pixels) => pixels / ratio);
      return { plane: NAMES[axCorSag], left, top, width, height };
    });
  }

  /** CSS pixels per mm, as last drawn. */
  get scale() {
    return this.#pixelsPerMm / this.#viewer.uiData.dpr;
  }

  /**
   * Draw with the crosshair at a place and another in the middle of the pane, both in the world and not in the volume:
   * panes that are placed alike show the same part of the world, whatever the grids of their volumes are.
   * @param {number[]} at R A S mm
   * @param {number[]} centre R A S mm
   * @param {number} scale screen pixels per mm
   */
  place(at, centre, scale) {
    const viewer = this.#viewer;
    const zoom = scale / this.fit;
    const { extentsMinOrtho: least, extentsMaxOrtho: most } = this.#volume.image;
    const middle = viewer.frac2mm(viewer.mm2frac(centre, 0, true));
    const pan = [0, 1, 2].map((axis) => (least[axis] + most[axis]) / 2 - zoom * middle[axis]);
    viewer.scene.pan2Dxyzmm = new Float32Array([...pan, zoom]);
    viewer.scene.crosshairPos = viewer.mm2frac(at, 0, true);
    this.#pixelsPerMm = scale;
    const width = (CROSSHAIR_PIXELS * viewer.uiData.dpr) / scale;
    viewer.opts.crosshairGap = (GAP_PIXELS * viewer.uiData.dpr) / scale / (width / 2);
    viewer.setCrosshairWidth(width); // draws
  }

  /** Draw now, and give the canvas: what it holds is gone when the browser shows it. */
  snapshot() {
    this.#viewer.drawScene();
    return this.#viewer.canvas;
  }

  /**
   * What lies under a point of the canvas.
   * @param {number} x CSS pixels
   * @param {number} y CSS pixels
   * @returns {{plane: string, mm: number[], inside: boolean}|null} null between the planes
   */
  under(x, y) {
    const viewer = this.#viewer;
    const [left, top] = [x * viewer.uiData.dpr, y * viewer.uiData.dpr];
    const tile = viewer.tileIndex(left, top);
    if (!this.filled || tile < 0) return null;
    const share = Array.from(viewer.screenXY2TextureFrac(left, top, tile, false));
    return {
      plane: NAMES[viewer.screenSlices[tile].axCorSag],
      mm: this.#volume.world(share),
      inside: share.every((value) => value >= 0 && value <= 1),
    };
  }
}
