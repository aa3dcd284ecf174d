// The view in the address bar: a link to the page shows what its sender saw.

const MODES = ["side", "blend"];
const PLANES = ["axial", "coronal", "sagittal", "all"];
const DRAWN = ["nearest", "linear"];

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
    plane: one(hash.get("plane"), PLANES),
    drawn: one(hash.get("drawn"), DRAWN),
    blend: share >= 0 && share <= 1 ? share : 0.5,
    at: place.length === 3 && place.every(Number.isFinite) ? place : null,
  };
}

/** Write the address without a new entry in the browser's history. */
export function writeAddress({ scan, result, mode, plane, drawn, blend, at }) {
  const hash = new URLSearchParams();
  if (scan) hash.set("scan", scan);
  if (result) hash.set("result", result);
  hash.set("mode", mode);
  hash.set("plane", plane);
  hash.set("drawn", drawn);
  if (mode === "blend") hash.set("blend", blend.toFixed(2));
  if (at) hash.set("at", at.map((mm) => mm.toFixed(1)).join(","));
  history.replaceState(null, "", `#${hash}`);
}
