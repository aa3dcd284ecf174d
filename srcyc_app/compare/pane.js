// One NiiVue canvas with one volume, drawn voxel for voxel on the volume's own grid.

import { MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "./niivue.js";

const PLANES = {
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  all: SLICE_TYPE.MULTIPLANAR,
};

/** World axis (0 R, 1 A, 2 S) that is perpendicular to a plane. */
export const THROUGH = { sagittal: 0, coronal: 1, axial: 2 };

const NAMES = Object.fromEntries(Object.entries(PLANES).map(([name, type]) => [type, name]));

/** Voxels that are looked at for the first window, and what share of them is darker than black and than white. */
const SAMPLES = 200_000;
const OUTLIERS = [0.01, 0.97];

/** NiiVue's number for a map that is the more transparent the less it says. */
const FADING = 1;

const CROSSHAIR_PIXELS = 1.2;
const GAP_PIXELS = 7;

export class Pane {
  #viewer;
  #calibrated = "";

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
      showAllOrientationMarkers: true,
      fontColor: [0.85, 0.85, 0.85, 1],
      fontMinPx: 12,
    });
    await viewer.attachToCanvas(canvas, false);
    return new Pane(viewer);
  }

  get filled() {
    return this.#viewer.volumes.length > 0;
  }

  /** Show a volume (NIfTI, ArrayBuffer) in place of what was there. */
  async fill(buffer) {
    const image = await NVImage.loadFromUrl({ url: buffer, name: "volume.nii", colormap: "gray" });
    this.empty();
    this.#viewer.addVolume(image);
    this.#calibrated = "";
  }

  empty() {
    while (this.#viewer.volumes.length > 0) this.#viewer.removeVolume(this.#viewer.volumes.at(-1));
  }

  /** Lay a map over the volume; both have one grid, so that nothing is resampled. `null` takes it away. */
  async cover(buffer) {
    for (const layer of this.#viewer.volumes.slice(1)) this.#viewer.removeVolume(layer);
    if (buffer === null) return null;
    const map = await NVImage.loadFromUrl({ url: buffer, name: "map.nii", colormap: "inferno", opacity: 0.6 });
    [map.cal_min, map.cal_max] = [0.3 * map.robust_max, map.robust_max];
    map.colormapType = FADING;
    this.#viewer.addVolume(map);
    return map.cal_max;
  }

  setCoverOpacity(opacity) {
    if (this.#viewer.volumes.length > 1) this.#viewer.setOpacity(1, opacity);
  }

  // -- the volume ------------------------------------------------------------------------------------------------

  /** Intensities between which nearly all voxels lie. */
  get range() {
    const { img, hdr } = this.#image;
    const some = new Float32Array(Math.min(img.length, SAMPLES));
    for (let i = 0; i < some.length; i++) some[i] = img[Math.floor((i * img.length) / some.length)];
    some.sort();
    const [low, high] = OUTLIERS.map((share) => some[Math.round(share * (some.length - 1))] * (hdr.scl_slope || 1) + hdr.scl_inter);
    return [low, high > low ? high : low + 1];
  }

  /** Voxels along R, A, S. */
  get shape() {
    return Array.from(this.#image.dimsRAS).slice(1, 4);
  }

  /** Distance between voxels along R, A, S, mm. */
  get spacing() {
    return Array.from(this.#image.pixDimsRAS).slice(1, 4);
  }

  get centre() {
    return this.#world([0.5, 0.5, 0.5]);
  }

  /** The volume's eight corners, R A S mm. */
  get corners() {
    return [0, 1].flatMap((x) => [0, 1].flatMap((y) => [0, 1].map((z) => this.#world([x, y, z]))));
  }

  /** Tell whether a place (R A S mm) lies in the volume. */
  contains(mm) {
    return this.#share(mm).every((share) => share >= 0 && share <= 1);
  }

  /** The voxel at a place, counted from 0 along R, A, S. */
  voxel(mm) {
    return this.#share(mm).map((share, axis) => Math.floor(share * this.shape[axis]));
  }

  /** Intensity of the voxel at a place; null outside. */
  value(mm) {
    return this.contains(mm) ? this.#image.getValue(...this.voxel(mm)) : null;
  }

  /** A place moved by some voxels along R, A, S, but not out of the volume. */
  moved(mm, voxels) {
    const shape = this.shape;
    const shares = this.#share(mm).map((share, axis) => {
      const half = 0.5 / shape[axis];
      return Math.min(Math.max(share + voxels[axis] / shape[axis], half), 1 - half);
    });
    return this.#world(shares);
  }

  // -- how it is drawn -------------------------------------------------------------------------------------------

  setPlane(name) {
    this.#viewer.setSliceType(PLANES[name]);
  }

  setNearest(nearest) {
    this.#viewer.setInterpolation(nearest);
  }

  setWindow([low, high]) {
    const wanted = `${low} ${high}`;
    if (!this.filled || wanted === this.#calibrated) return;
    this.#calibrated = wanted;
    this.#image.cal_min = low;
    this.#image.cal_max = high;
    this.#viewer.updateGLVolume();
  }

  /** Screen pixels per mm if the whole volume is to be seen. */
  get fit() {
    const tile = this.#viewer.screenSlices[0];
    return tile.leftTopWidthHeight[2] / Math.abs(tile.fovMM[0]) / this.#viewer.scene.pan2Dxyzmm[3];
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
    const { extentsMinOrtho: least, extentsMaxOrtho: most } = this.#image;
    const middle = viewer.frac2mm(viewer.mm2frac(centre, 0, true));
    const pan = [0, 1, 2].map((axis) => (least[axis] + most[axis]) / 2 - zoom * middle[axis]);
    viewer.scene.pan2Dxyzmm = new Float32Array([...pan, zoom]);
    viewer.scene.crosshairPos = viewer.mm2frac(at, 0, true);
    const width = (CROSSHAIR_PIXELS * viewer.uiData.dpr) / scale;
    viewer.opts.crosshairGap = (GAP_PIXELS * viewer.uiData.dpr) / scale / (width / 2);
    viewer.setCrosshairWidth(width); // draws
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
      mm: this.#world(share),
      inside: share.every((value) => value >= 0 && value <= 1),
    };
  }

  // -- inside ----------------------------------------------------------------------------------------------------

  get #image() {
    return this.#viewer.volumes[0];
  }

  #world(shares) {
    return Array.from(this.#viewer.frac2mm(shares, 0, true)).slice(0, 3);
  }

  #share(mm) {
    return Array.from(this.#viewer.mm2frac(mm, 0, true));
  }
}
