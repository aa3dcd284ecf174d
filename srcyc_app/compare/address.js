// The view in the address bar: a link to the page shows what its sender saw.

const MODES = ["side", "blend", "difference"];
const PLANES = ["sagittal", "coronal", "axial", "all"];

const one = (value, allowed) => (allowed.includes(value) ? value : allowed[0]);

/** Read the address: names are only names, whatever they hold; the server says whether there is such a scan. */
export function readAddress() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const share = Number.parseFloat(hash.get("blend") ?? "");
  const place = (hash.get("at") ?? "").split(",").map(Number);
  return {
    scan: hash.get("scan") ?? "",
    result: hash.get("result") ?? "",
    mode: one(hash.get("mode"), MODES),
    // Without one, that in which the scan's slices are seen from the side.
    plane: PLANES.includes(hash.get("plane")) ? hash.get("plane") : "",
    left: hash.get("left") ?? "nearest",
    blend: share >= 0 && share <= 1 ? share : 0.5,
    at: place.length === 3 && place.every(Number.isFinite) ? place : null,
  };
}

/** Write the address without a new entry in the browser's history. */
export function writeAddress({ scan, result, mode, plane, left, blend, at }) {
  const hash = new URLSearchParams();
  if (scan) hash.set("scan", scan);
  if (result) hash.set("result", result);
  hash.set("mode", mode);
  if (plane) hash.set("plane", plane);
  hash.set("left", left);
  if (mode === "blend") hash.set("blend", blend.toFixed(2));
  if (at) hash.set("at", at.map((mm) => mm.toFixed(1)).join(","));
  history.replaceState(null, "", `#${hash}`);
}
