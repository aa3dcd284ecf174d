// A volume as it came: where it lies in the world, and what its voxels say. Drawing is in pane.js.

import { NVImage } from "./niivue.js";

/** Voxels that are looked at for the first window, and what share of them is darker than black and than white. */
const SAMPLES = 200_000;
const OUTLIERS = [0.01, 0.97];

/** Of NIfTI: bytes before the voxels, and where the header says of what type they are and how they are scaled. */
const HEADER_BYTES = 352;
const FLOAT32 = 16;

/** Voxels that are computed before the page may do something else. */
const AT_A_TIME = 2_000_000;

/** Voxels by which two grids may be apart and still count as one. */
const SAME = 0.02;
/** A place this many voxels outside counts as on the face: affines are rounded in files. */
const ROUNDING = 1e-3;

/** All places of which R, A and S are one of some shares. */
const lattice = (shares) => shares.flatMap((x) => shares.flatMap((y) => shares.map((z) => [x, y, z])));
const CORNERS = lattice([0, 1]);
/** `n` shares from 0 to 1, evenly. */
const even = (n) => Array.from({ length: n }, (_, at) => (at + 0.5) / n);

/** Multiply two affine maps of three rows and four columns. */
const times = (a, b) =>
  a.map((row) => [0, 1, 2, 3].map((c) => row[0] * b[0][c] + row[1] * b[1][c] + row[2] * b[2][c] + (c === 3 ? row[3] : 0)));

/** Undo an affine map of three rows and four columns. */
function inverse([[a, b, c, x], [d, e, f, y], [g, h, i, z]]) {
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const rows = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / determinant));
  return rows.map((row) => [...row, -(row[0] * x + row[1] * y + row[2] * z)]);
}

/** Let the page draw and listen, and stop if that is wanted. */
async function breathe(signal) {
  await new Promise((resolve) => setTimeout(resolve));
  signal?.throwIfAborted();
}

export class Volume {
  /** NiiVue's. */
  image;
  /** What is drawn is `gain` times the voxel plus `offset`: intensities of another scanner, brought to this one's. */
  gain = 1;
  offset = 0;

  #header;
  /** Values that differ from what NiiVue was given: it does not know voxels without one. */
  #values;

  /** Use {@link Volume.read}. */
  constructor(image, header, values = null) {
    this.image = image;
    this.#header = header;
    this.#values = values;
  }

  /** Read a NIfTI file (ArrayBuffer). */
  static async read(buffer, colormap = "gray") {
    const image = await NVImage.loadFromUrl({ url: buffer, name: "volume.nii", colormap });
    return new Volume(image, buffer.slice(0, HEADER_BYTES));
  }

  /** Make a volume of the same grid from values in the order of the file; NaN: there is none. */
  async like(values, colormap) {
    const buffer = new ArrayBuffer(HEADER_BYTES + 4 * values.length);
    new Uint8Array(buffer).set(new Uint8Array(this.#header));
    const header = new DataView(buffer);
    const little = header.getInt32(0, true) === 348;
    header.setInt16(70, FLOAT32, little);
    header.setInt16(72, 32, little);
    header.setFloat32(108, HEADER_BYTES, little);
    header.setFloat32(112, 1, little);
    header.setFloat32(116, 0, little);
    // Extensions, which begin behind the header, are not taken along.
    header.setInt32(348, 0, little);
    const voxels = new Float32Array(buffer, HEADER_BYTES);
    for (let n = 0; n < values.length; n++) voxels[n] = Number.isNaN(values[n]) ? 0 : values[n];
    const made = await Volume.read(buffer, colormap);
    return new Volume(made.image, buffer.slice(0, HEADER_BYTES), values);
  }

  // -- where it is ---------------------------------------------------------------------------------------------------

  /** Voxels along R, A, S. */
  get shape() {
    return Array.from(this.image.dimsRAS).slice(1, 4);
  }

  /** Distance between voxels along R, A, S, mm. */
  get spacing() {
    return Array.from(this.image.pixDimsRAS).slice(1, 4);
  }

  /** World axis (0 R, 1 A, 2 S) along which the slices are stacked. */
  get thickAxis() {
    const spacing = this.spacing.map((mm) => Math.round(mm * 1e4));
    return spacing.lastIndexOf(Math.max(...spacing));
  }

  get centre() {
    return this.world([0.5, 0.5, 0.5]);
  }

  /** The eight corners, R A S mm. */
  get corners() {
    return CORNERS.map((corner) => this.world(corner));
  }

  /** Voxels along the axes of the file. */
  get fileShape() {
    return Array.from(this.image.hdr.dims).slice(1, 4);
  }

  /** From voxel indices along the axes of the file to R A S mm: three rows, four columns. */
  get affine() {
    return this.image.hdr.affine.slice(0, 3).map((row) => Array.from(row));
  }

  /** Tell whether a place (R A S mm) lies in the volume. */
  contains(mm) {
    return this.share(mm).every((share) => share >= 0 && share <= 1);
  }

  /** The voxel at a place, counted from 0 along R, A, S. */
  voxel(mm) {
    return this.share(mm).map((share, axis) => Math.floor(share * this.shape[axis]));
  }

  /** A place moved by some voxels along R, A, S, but not out of the volume. */
  moved(mm, voxels) {
    const shape = this.shape;
    const shares = this.share(mm).map((share, axis) => {
      const half = 0.5 / shape[axis];
      return Math.min(Math.max(share + voxels[axis] / shape[axis], half), 1 - half);
    });
    return this.world(shares);
  }

  /** From shares of the volume's extent along R, A, S to R A S mm. */
  world(shares) {
    return Array.from(this.image.convertFrac2MM(shares, true)).slice(0, 3);
  }

  /** The other way round. */
  share(mm) {
    return Array.from(this.image.convertMM2Frac(mm, true));
  }

  /** Angle between the axes of two volumes, degrees: beyond a few, a plane of one is none of the other. */
  tilt(other) {
    const axes = (volume) => [0, 1, 2].map((axis) => {
      const [from, to] = [[0, 0, 0], [0, 0, 0].with(axis, 1)].map((share) => volume.world(share));
      const along = to.map((value, n) => value - from[n]);
      return along.map((value) => value / Math.hypot(...along));
    });
    const [mine, theirs] = [axes(this), axes(other)];
    const least = Math.min(...mine.map((axis, n) => axis.reduce((sum, value, m) => sum + value * theirs[n][m], 0)));
    return (Math.acos(Math.min(Math.max(least, -1), 1)) * 180) / Math.PI;
  }

  // -- what its voxels say -------------------------------------------------------------------------------------------

  /** Intensity of the voxel at a place; null outside. */
  value(mm) {
    if (!this.contains(mm)) return null;
    if (this.#values === null) return this.image.getValue(...this.voxel(mm));
    const inFile = inverse(this.affine).map((row) => row[0] * mm[0] + row[1] * mm[1] + row[2] * mm[2] + row[3]);
    const shape = this.fileShape;
    const [i, j, k] = inFile.map((at, axis) => Math.min(Math.max(Math.round(at), 0), shape[axis] - 1));
    const value = this.#values[i + shape[0] * (j + shape[1] * k)];
    return Number.isNaN(value) ? null : value;
  }

  /** Intensities between which nearly all voxels lie. */
  get range() {
    const some = this.#some();
    const [low, high] = OUTLIERS.map((share) => some[Math.round(share * (some.length - 1))]);
    return [low, high > low ? high : low + 1];
  }

  /** The size that all but a share of the voxels other than 0 stay below. */
  limit(share) {
    const sizes = this.#some().map(Math.abs).filter((size) => size > 0).sort();
    return sizes.length ? sizes[Math.min(Math.floor((1 - share) * sizes.length), sizes.length - 1)] : 0;
  }

  /** Some of the values, in their order. */
  #some() {
    const { img, hdr } = this.image;
    const some = new Float32Array(Math.min(img.length, SAMPLES));
    for (let n = 0; n < some.length; n++) {
      some[n] = img[Math.floor((n * img.length) / some.length)] * (hdr.scl_slope || 1) + hdr.scl_inter;
    }
    return some.filter((value) => !Number.isNaN(value)).sort();
  }

  /**
   * The share of this volume that another one covers, by a grid of places.
   * @param {Volume} other
   */
  coveredBy(other) {
    const places = lattice(even(11));
    return places.filter((share) => other.contains(this.world(share))).length / places.length;
  }

  /** Tell whether two volumes have their voxels at the same places. */
  isOnGridOf(other) {
    const [a, b] = [this.fileShape, other.fileShape];
    if (a.some((n, axis) => n !== b[axis])) return false;
    const map = times(inverse(this.affine), other.affine);
    const ends = CORNERS.map((corner) => corner.map((share, axis) => share * (a[axis] - 1)));
    return ends.every((end) =>
      map.every((row, axis) => Math.abs(row[0] * end[0] + row[1] * end[1] + row[2] * end[2] + row[3] - end[axis]) < SAME),
    );
  }

  /**
   * What another volume says at this one's voxels, in the order of this one's file; NaN outside of it.
   * @param {Volume} other
   * @param {"nearest"|"linear"} how beyond the outer voxel centres the edge value holds
   * @param {AbortSignal} [signal]
   * @returns {Promise<Float32Array>}
   */
  async asked(other, how, signal) {
    const [img, slope, intercept] = other.#voxels;
    const shape = this.fileShape;
    const found = new Float32Array(shape[0] * shape[1] * shape[2]);
    if (other.isOnGridOf(this)) {
      for (let n = 0; n < found.length; n++) found[n] = img[n] * slope + intercept;
      return found;
    }
    const map = times(inverse(other.affine), this.affine);
    const [nx, ny, nz] = other.fileShape;
    const plane = nx * ny;
    const [dx, dy, dz] = map.map((row) => row[0]);
    const clamp = (value, most) => (value < 0 ? 0 : value > most ? most : value);
    const [endX, endY, endZ] = [nx, ny, nz].map((n) => n - 0.5 + ROUNDING);
    const start = -0.5 - ROUNDING;
    let [at, since] = [0, 0];
    for (let k = 0; k < shape[2]; k++) {
      for (let j = 0; j < shape[1]; j++) {
        const [x0, y0, z0] = map.map((row) => row[1] * j + row[2] * k + row[3]);
        for (let i = 0; i < shape[0]; i++, at++) {
          const [x, y, z] = [x0 + dx * i, y0 + dy * i, z0 + dz * i];
          if (x < start || y < start || z < start || x > endX || y > endY || z > endZ) {
            found[at] = NaN;
            continue;
          }
          const [cx, cy, cz] = [clamp(x, nx - 1), clamp(y, ny - 1), clamp(z, nz - 1)];
          let value;
          if (how === "nearest") {
            value = img[Math.round(cx) + nx * Math.round(cy) + plane * Math.round(cz)];
          } else {
            const [ix, iy, iz] = [Math.floor(cx), Math.floor(cy), Math.floor(cz)];
            const [fx, fy, fz] = [cx - ix, cy - iy, cz - iz];
            const n = ix + nx * iy + plane * iz;
            const [sx, sy, sz] = [fx > 0 ? 1 : 0, fy > 0 ? nx : 0, fz > 0 ? plane : 0];
            const low = (img[n] * (1 - fx) + img[n + sx] * fx) * (1 - fy) + (img[n + sy] * (1 - fx) + img[n + sx + sy] * fx) * fy;
            const m = n + sz;
            const high = (img[m] * (1 - fx) + img[m + sx] * fx) * (1 - fy) + (img[m + sy] * (1 - fx) + img[m + sx + sy] * fx) * fy;
            value = low * (1 - fz) + high * fz;
          }
          found[at] = value * slope + intercept;
        }
      }
      since += shape[0] * shape[1];
      if (since > AT_A_TIME) {
        since = 0;
        await breathe(signal);
      }
    }
    return found;
  }

  /** Numbers in the order of the file, and what makes what is drawn of them. */
  get #voxels() {
    if (this.#values !== null) return [this.#values, this.gain, this.offset];
    const { img, hdr } = this.image;
    return [img, (hdr.scl_slope || 1) * this.gain, hdr.scl_inter * this.gain + this.offset];
  }

  /** The voxels' values in the order of the file, as they are drawn. */
  get values() {
    const [img, slope, intercept] = this.#voxels;
    return Float32Array.from(img, (value) => value * slope + intercept);
  }

  /** This volume minus another one, voxel by voxel of this one. */
  async minus(other, how, signal) {
    const theirs = await this.asked(other, how, signal);
    const mine = this.values;
    for (let n = 0; n < mine.length; n++) mine[n] -= theirs[n];
    return mine;
  }

  /**
   * Bring this volume's intensities to another one's by a line through the values at places that both cover: scanners
   * have no common unit.
   * @param {Volume} other
   * @returns {boolean} whether there is such a line
   */
  matchTo(other) {
    [this.gain, this.offset] = [1, 0];
    const places = lattice(even(24)).map((share) => other.world(share));
    const pairs = places.map((mm) => [this.value(mm), other.value(mm)]);
    const known = pairs.filter((pair) => pair.every((value) => value !== null && Number.isFinite(value)));
    const mean = [0, 1].map((n) => known.reduce((sum, pair) => sum + pair[n], 0) / known.length);
    const [spread, together, theirs] = known.reduce(
      ([s, t, u], [a, b]) => [s + (a - mean[0]) ** 2, t + (a - mean[0]) * (b - mean[1]), u + (b - mean[1]) ** 2],
      [0, 0, 0],
    );
    if (!(together > 0) || together ** 2 < 0.1 * spread * theirs) return false;
    this.gain = together / spread;
    this.offset = mean[1] - this.gain * mean[0];
    return true;
  }
}
