// The page: what is chosen, loaded and told. Drawing is in view.js and pane.js.

import { readAddress, writeAddress } from "./address.js";
import { listen as listenToKeys } from "./keys.js";
import { showResults, showScans, tick } from "./lists.js";
import { Pane, THROUGH } from "./pane.js";
import { listen as listenToPointer } from "./pointer.js";
import { Runner } from "./runner.js";
import { Refused, describe, fetchVolume, listScans, takeSession } from "./server.js";
import { intensity, place, rows, spacing } from "./text.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);

/** As the labels say it, in full. */
const DRAWN = { nearest: "as measured: nearest voxel", linear: "linear interpolation, as most viewers show it" };
const BLEND_STEP = 0.1;

const state = readAddress();
/** Of the datastore. */
let scans = [];
/** The last result that was made here, by its scan: `{id, buffer, report, cover}`; `id` is "" unless it was kept. */
const made = new Map();
/** What is being loaded: whatever comes of an older one is dropped. */
let loading = new AbortController();
let view;
let runner;

// -- telling -------------------------------------------------------------------------------------------------------

const say = (text) => {
  // Only what is new: it is read out.
  if ($("status").textContent !== text) $("status").textContent = text;
};

function complain(error) {
  $("alert").textContent = error ? error.message : "";
  $("alert").hidden = !error;
}

/** Do something; what goes wrong becomes a sentence in the page. */
async function attempt(work) {
  complain(null);
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    say("");
    complain(error instanceof Refused ? error : new Error(`This cannot be shown: ${error.message}`));
  }
}

function veil(pane, text) {
  $(`${pane}-veil`).textContent = text;
  $(`${pane}-veil`).hidden = !text;
}

// -- scans and results ---------------------------------------------------------------------------------------------

const scanOf = (id) => scans.find((scan) => scan.id === id);

const resultsOf = (id) => scans.filter((scan) => scan.madeFrom === id && !scan.error);

async function refresh() {
  scans = await listScans();
  showScans($("scans"), scans);
  tick($("scans"), state.scan);
}

/** Forget what was being loaded, for something else is wanted now. */
function loadAnew() {
  loading.abort();
  loading = new AbortController();
  return loading.signal;
}

function offerResults() {
  $("results-box").hidden = false;
  const kept = resultsOf(state.scan);
  const mine = made.get(state.scan);
  showResults($("results"), kept, mine?.id === "" ? mine : undefined);
  return mine?.id ?? kept[0]?.id;
}

/** Show a scan, and one of its results: the one named, else the newest that there is. */
async function openScan(id, result = "") {
  const signal = loadAnew();
  const scan = scanOf(id);
  if (!scan) throw new Refused(`Scan “${id}” is not in the studies folder of this server. Choose one of the list.`);
  if (scan.error) throw new Refused(scan.error);
  Object.assign(state, { scan: id, result: "" });
  tick($("scans"), id);
  runner.image = id;
  clearResult();
  $("run-box").hidden = false;
  $("results-box").hidden = true;
  say(`Loading ${id} …`);
  veil("original", "Loading …");
  const buffer = await fetchVolume(id, signal);
  signal.throwIfAborted();
  await view.original.fill(buffer);
  veil("original", "");
  view.begin(state.at);
  state.at = null;
  say("");
  const newest = offerResults();
  remember();
  if (result || newest !== undefined) {
    await openResult(result || newest);
  } else {
    $("run-box").open = true;
    veil("result", "There is no super-resolved version yet: press Run.");
  }
}

/** Show a result of the scan: a kept one, or the one that was just made. */
async function openResult(id) {
  const signal = loadAnew();
  const mine = made.get(state.scan);
  const kept = resultsOf(state.scan).find((result) => result.id === id);
  clearResult();
  let shown = mine;
  if (mine?.id !== id) {
    if (!kept) throw new Refused(`“${id}” is not a result of ${state.scan} on this server. Choose one of the list, or press Run.`);
    say(`Loading ${id} …`);
    veil("result", "Loading …");
    shown = { buffer: await fetchVolume(id, signal), report: kept.report, cover: null };
    signal.throwIfAborted();
  }
  await view.result.fill(shown.buffer);
  state.result = id;
  tick($("results"), id);
  await showCover(shown.cover);
  showReport(shown.report);
  say("");
  veil("result", "");
  layOut();
  remember();
}

function clearResult() {
  view.result.empty();
  $("cover-box").hidden = $("report-box").hidden = true;
  layOut();
  veil("result", view.original.filled ? "Choose a super-resolved version, or press Run." : " ");
  describeVolumes();
}

async function showCover(buffer) {
  $("cover-box").hidden = !buffer;
  if (!buffer) return;
  const most = await view.result.cover(buffer);
  $("cover-scale").textContent = `bright: ${intensity(most)} or more`;
  // Off at first: the result itself comes before the doubts about it.
  $("cover-on").checked = false;
  view.result.setCoverOpacity(0);
}

/** A result has arrived. */
async function arrived(image, { buffer, report }) {
  say("Showing the result …");
  const cover = report.uncertainty_session ? await takeSession(report.uncertainty_session) : null;
  made.set(image, { id: report.stored_as ?? "", buffer, report, cover });
  if (report.stored_as) await refresh();
  if (image !== state.scan) {
    say(`The result of ${image} is there: choose ${image} to see it.`);
    return;
  }
  await openResult(offerResults());
  say(report.stored_as ? `Kept as ${report.stored_as}.` : "Done. The result is not kept: it is gone when the page is closed.");
}

function showReport(known) {
  // Of a result that came into the folder by other ways there is no report; where it lies is told nevertheless.
  const report = known ?? {};
  $("report-box").hidden = false;
  $("report").replaceChildren(
    ...rows(report).flatMap(([what, value]) => [
      Object.assign(document.createElement("dt"), { textContent: what }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    ]),
  );
  const warnings = [...(report.warnings ?? []), ...misplaced()];
  $("warnings").replaceChildren(
    ...warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
  $("report-note").textContent = report.note ?? "Not for diagnostic use.";
}

/** Say it if the two volumes do not fill the same part of the world. */
function misplaced() {
  const ends = view.original.corners;
  const apart = (mm) => Math.min(...ends.map((end) => Math.hypot(...end.map((value, axis) => value - mm[axis]))));
  const most = Math.max(...view.result.corners.map(apart));
  if (most <= Math.max(...view.result.spacing)) return [];
  return [`The result does not lie where the scan lies: their corners are up to ${most.toFixed(1)} mm apart.`];
}

// -- what is drawn -------------------------------------------------------------------------------------------------

function describeVolumes() {
  for (const [name, pane] of Object.entries({ original: view.original, result: view.result })) {
    const how = name === "original" ? DRAWN[state.drawn] : "as computed: nearest voxel";
    $(`${name}-grid`).textContent = pane.filled ? spacing(pane.spacing) : "";
    $(`${name}-caption`).textContent = pane.filled ? `${sliceOf(pane)}${how}` : "";
  }
}

function sliceOf(pane) {
  if (state.plane === "all" || !pane.contains(view.at)) return "";
  const axis = THROUGH[state.plane];
  return `slice ${pane.voxel(view.at)[axis] + 1} of ${pane.shape[axis]} · `;
}

function showPlace() {
  describeVolumes();
  $("place").textContent = place(view.at);
  $("place").dataset.mm = view.at.map((mm) => mm.toFixed(3)).join(" ");
  for (const [name, pane] of Object.entries({ original: view.original, result: view.result })) {
    $(`${name}-value`).textContent = pane.filled ? intensity(pane.value(view.at)) : "–";
  }
  if (view.result.filled) {
    veil("result", view.result.contains(view.at) ? "" : "The crosshair is outside the super-resolved volume.");
  }
  const [low, high] = view.window;
  for (const [field, value] of [["width", high - low], ["level", (low + high) / 2]]) {
    if (document.activeElement !== $(field)) $(field).value = Number(value.toPrecision(4));
  }
}

let writing = 0;

/** Write the address, not at every movement of the mouse: browsers limit how often it may change. */
function remember() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    writeAddress({ ...state, at: view.original.filled ? view.at : null });
  }, 300);
}

/** Put the panes side by side or on top of each other. */
function layOut() {
  const blend = state.mode === "blend" && view.result.filled;
  $("stage").classList.toggle("blend", blend);
  // The upper pane fades. NiiVue's own overlays would not do: it resamples them, by nearest neighbour, to the grid of the
  // volume that was loaded first, so that one of the two would no longer be what it is. (With them the result would have
  // to come first, or it would be shown with the scan's thick slices.)
  $("result-pane").style.opacity = blend ? state.blend : 1;
  view.draw();
}

/** Set the controls and the panes to what the state says. */
function applyControls() {
  for (const group of ["mode", "plane", "drawn"]) {
    for (const input of document.getElementsByName(group)) input.checked = input.value === state[group];
  }
  $("blend-box").hidden = state.mode !== "blend";
  $("blend").value = state.blend;
  layOut();
  view.setNearest(state.drawn === "nearest");
  view.setPlane(state.plane);
  describeVolumes();
  remember();
}

function change(changes) {
  Object.assign(state, changes);
  applyControls();
}

const blendTo = (share) => change({ mode: "blend", blend: Math.min(Math.max(share, 0), 1) });

function listen() {
  for (const group of ["mode", "plane", "drawn"]) {
    $(group).addEventListener("change", (event) => change({ [group]: event.target.value }));
  }
  $("blend").addEventListener("input", () => blendTo($("blend").valueAsNumber));
  $("scans").addEventListener("change", (event) => attempt(() => openScan(event.target.value)));
  $("results").addEventListener("change", (event) => attempt(() => openResult(event.target.value)));
  const setWindow = () => {
    const [width, level] = [$("width").valueAsNumber, $("level").valueAsNumber];
    if (width > 0 && Number.isFinite(level)) view.setWindow(level - width / 2, level + width / 2);
  };
  $("width").addEventListener("change", setWindow);
  $("level").addEventListener("change", setWindow);
  $("reset").addEventListener("click", () => view.original.filled && view.begin());
  const cover = () => view.result.setCoverOpacity($("cover-on").checked ? $("cover").valueAsNumber : 0);
  $("cover").addEventListener("input", cover);
  $("cover-on").addEventListener("change", cover);
  $("help-open").addEventListener("click", () => $("help").showModal());
  view.addEventListener("drawn", () => {
    showPlace();
    remember();
  });
  // NiiVue draws by itself when its canvas changes its size, each pane for itself.
  new ResizeObserver(() => view.draw()).observe($("stage"));
  window.addEventListener("hashchange", () => attempt(followAddress));
  listenToPointer($("original"), view.original, view);
  listenToPointer($("result"), view.result, view);
  listenToKeys(view, {
    1: () => change({ plane: "axial" }),
    2: () => change({ plane: "coronal" }),
    3: () => change({ plane: "sagittal" }),
    4: () => change({ plane: "all" }),
    b: () => change({ mode: state.mode === "blend" ? "side" : "blend" }),
    i: () => change({ drawn: state.drawn === "nearest" ? "linear" : "nearest" }),
    "[": () => blendTo(state.blend - BLEND_STEP),
    "]": () => blendTo(state.blend + BLEND_STEP),
    "+": () => view.zoom(1.25),
    "=": () => view.zoom(1.25),
    "-": () => view.zoom(0.8),
    0: () => view.fit(),
    "?": () => $("help").showModal(),
  });
}

/** Somebody has put another address in. */
async function followAddress() {
  const wanted = readAddress();
  const { scan, result } = state;
  Object.assign(state, wanted, { scan, result });
  applyControls();
  if (wanted.scan && wanted.scan !== scan) {
    await openScan(wanted.scan, wanted.result);
  } else if (wanted.result !== result && wanted.result) {
    await openResult(wanted.result);
  } else if (wanted.at && view.original.filled && view.original.contains(wanted.at)) {
    view.moveTo(wanted.at);
  }
  state.at = null;
}

async function begin() {
  let panes;
  try {
    panes = await Promise.all([Pane.on($("original")), Pane.on($("result"))]);
  } catch (error) {
    throw new Refused(`This browser cannot draw the slices: it needs WebGL 2 (${error.message}).`);
  }
  view = new View(...panes);
  runner = new Runner(arrived, say, complain);
  listen();
  applyControls();
  veil("result", " ");
  say("Asking the server for its scans …");
  const [server] = await Promise.all([describe(), refresh()]);
  runner.offer(server);
  say("");
  const { scan, result } = state;
  state.scan = state.result = "";
  const first = scans.find(({ error, madeFrom }) => !error && !madeFrom)?.id;
  if (scan || first) await openScan(scan || first, result);
  else veil("original", "There are no scans on this server yet.");
}

attempt(begin);
