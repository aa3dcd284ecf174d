// Numbers and reports as a reader wants them.

/** `0.78 × 0.78 × 6.5 mm` */
export const spacing = (mm) => (mm ? `${mm.map((value) => Number(value.toFixed(2))).join(" × ")} mm` : "spacing unknown");

/** Millimetres to the right, to the front and to the top of the scanner's origin, as NIfTI counts. */
export const place = (mm) => mm.map((value, axis) => `${"RAS"[axis]} ${fixed(value)}`).join("   ") + " mm";

// Without the sign of a zero, and with a minus as wide as a digit.
const fixed = (value) => (Math.round(value * 10) / 10 || 0).toFixed(1).replace("-", "−");

/** An intensity with as many digits as it is worth. */
export function intensity(value) {
  if (value === null) return "outside";
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** The same with its sign, a minus as wide as a digit. */
export const signed = (value) =>
  value === null ? "outside" : `${value > 0 ? "+" : ""}${intensity(value)}`.replace("-", "−");

/** Rows of a report: `[[what, value], …]`. */
export function rows(report) {
  const shape = (array) => `${array.join(" × ")} voxels`;
  const found = [];
  if (report.model) found.push(["Model", report.model.name]);
  if (report.input) found.push(["Scan", `${spacing(report.input.spacing)}; ${shape(report.input.shape)}`]);
  if (report.result) found.push(["Result", `${spacing(report.result.spacing)}; ${shape(report.result.shape)}`]);
  if (report.factor) found.push(["Factor", `${report.factor.toFixed(2)} along the thick axis`]);
  if (report.thickness) {
    const { millimetres, ratio, source } = report.thickness;
    const share = `${Number(ratio.toFixed(2))} of their distance`;
    const said = {
      stated: "as stated",
      read: "as the file says",
      estimated: `estimated from the scan: ${share}`,
      assumed: `assumed: ${share}`,
    };
    found.push(["Slice thickness", `${Number(millimetres.toFixed(2))} mm, ${said[source] ?? source}`]);
  }
  if (report.consistency) {
    const { applied, slices_corrected: corrected, correction, residual } = report.consistency;
    const percent = (value) => `${Number((100 * value).toPrecision(2))} %`;
    if (corrected !== undefined) found.push(["Slices corrected", corrected ? `by ${percent(correction)}` : "no"]);
    if (applied === false && residual !== undefined) found.push(["Not kept to the scan", `off by ${percent(residual)}`]);
  }
  if (report.preprocessing?.length) found.push(["Prepared by", report.preprocessing.join(", ")]);
  if (report.seconds) found.push(["Took", `${report.seconds.toFixed(1)} s on ${report.device}`]);
  return found;
}
