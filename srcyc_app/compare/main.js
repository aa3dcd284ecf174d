// The page: what is chosen, loaded and told. Drawing is in view.js and pane.js.

import { readAddress, writeAddress } from "./address.js";
import { listen as listenToKeys } from "./keys.js";
import { BASELINES, Left, partsOf } from "./left.js";
import { showChoices, showResults, showScans, tick } from "./lists.js";
import { showColours, showLetters, showScale } from "./marks.js";
import { COVER, DIFFERENCE, Pane, THROUGH } from "./pane.js";
import { draw as drawPicture, save } from "./picture.js";
import { listen as listenToPointer } from "./pointer.js";
import { Results } from "./results.js";
import { Runner } from "./runner.js";
import { Refused, describe, fetchVolume, listScans, sendScan } from "./server.js";
import { intensity, place, rows, signed, spacing } from "./text.js";
import { View } from "./view.js";
import { Volume } from "./volume.js";

const $ = (id) => document.getElementById(id);

const BLEND_STEP = 0.1;
/** Of MR images: what a scanner makes of a signal has no unit. */
const UNIT = "intensity, a.u.";
const NOT_FOR_DIAGNOSIS = "Not for diagnostic use.";

const state = readAddress();
/** Of the datastore, and those that were sent from here. */
let scans = [];
const sent = [];
const results = new Results();
/** What is being loaded: whatever comes of an older one is dropped. */
let loading = new AbortController();
/** What is being computed for the left pane, and for the difference. */
let comparing = new AbortController();
let view;
let runner;
let left;
/** The result that is shown, as {@link Results} has it. */
let shown = null;

// -- telling -------------------------------------------------------------------------------------------------------

const say = (text) => {
  // Only what is new: it is read out.
  if ($("status").textContent !== text) $("status").textContent = text;
};

function complain(error) {
  $("alert").textContent = error ? error.message : "";
  $("alert").hidden = !error;
  // On a phone it may be far above what was pressed.
  if (error) $("alert").scrollIntoView({ block: "nearest" });
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

/** Say over a pane what is being done for it, and that nothing came of it; whoever aborts it says something else. */
async function veiled(pane, text, work) {
  veil(pane, text);
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") veil(pane, "This cannot be shown.");
    throw error;
  }
}

// -- scans and results ---------------------------------------------------------------------------------------------

const scanOf = (id) => scans.find((scan) => scan.id === id);

const nameOf = (scan) => scan.name ?? scan.id;

async function refresh() {
  scans = [...sent, ...(await listScans())];
  results.list(scans);
  showScans($("scans"), scans);
  tick($("scans"), state.scan);
}

/** Forget what was being loaded, for something else is wanted now. */
function loadAnew() {
  comparing.abort();
  loading.abort();
  loading = new AbortController();
  return loading.signal;
}

function offerResults() {
  const all = results.of(state.scan);
  $("results-box").hidden = false;
  showResults($("results"), all);
  tick($("results"), state.result);
  offerLeft();
  return all[0]?.key;
}

/** Show a scan, and one of its results: the one named, else the newest that there is. */
async function openScan(id, result = "") {
  const signal = loadAnew();
  const scan = scanOf(id);
  if (!scan) throw new Refused(`Scan “${id}” is not in the studies folder of this server. Choose one of the list.`);
  if (scan.error) throw new Refused(scan.error);
  state.scan = id;
  tick($("scans"), id);
  view.end();
  left = new Left();
  showNoPlace();
  clearResult();
  $("run-box").hidden = $("results-box").hidden = true;
  say(`Loading ${nameOf(scan)} …`);
  const volume = await veiled("original", "Loading …", async () => Volume.read(await fetchVolume(scan, signal)));
  signal.throwIfAborted();
  runner.scan = scan;
  $("run-box").hidden = false;
  left.begin(scan, volume);
  view.original.fill(volume);
  veil("original", "");
  // The plane in which its slices are seen from the side.
  if (!state.plane) {
    view.setPlane(volume.thickAxis === THROUGH.sagittal ? "coronal" : "sagittal");
    applyControls();
  }
  view.begin(volume, state.at);
  state.at = null;
  say("");
  const newest = offerResults();
  remember();
  if (result || newest !== undefined) {
    await openResult(result || newest);
  } else {
    $("run-box").open = true;
    veil("result", "There is no super-resolved version yet: press Run.");
    // What needs a result's grid waits for one.
    await chooseLeft(left.has(state.left) ? state.left : "nearest");
  }
}

/** Show a result of the scan: a kept one, or one that was made here. */
async function openResult(key) {
  // It could not be shown before.
  if (!view.scan) return openScan(state.scan, key);
  const signal = loadAnew();
  const scan = scanOf(state.scan);
  const wanted = results.find(state.scan, key);
  clearResult();
  if (!wanted) {
    throw new Refused(`“${key}” is not a result of ${nameOf(scan)} on this server. Choose one of the list, or press Run.`);
  }
  say(`Loading ${wanted.name} …`);
  const [volume, map] = await veiled("result", "Loading …", () =>
    Promise.all([results.volume(wanted, signal), results.map(wanted, signal)]),
  );
  signal.throwIfAborted();
  shown = wanted;
  view.result.fill(volume);
  state.result = key;
  tick($("results"), key);
  left.for(wanted.report, volume);
  showCover(map);
  showReport(wanted.report);
  $("download").hidden = false;
  say("");
  veil("result", "");
  offerLeft();
  layOut();
  remember();
  await chooseLeft(state.left === `result:${key}` ? "nearest" : state.left);
}

function clearResult() {
  shown = null;
  state.result = "";
  coverColours = null;
  view.subtract(null);
  view.result.empty();
  showColours($("cover-colours"), null);
  $("report-box").hidden = $("download").hidden = true;
  $("warnings").replaceChildren();
  layOut();
  veil("result", view.original.filled ? "Choose a super-resolved version, or press Run." : " ");
  describeVolumes();
}

/** Of the map over the result: its colours and what they mean. */
let coverColours = null;

function showCover(map) {
  coverColours = null;
  if (!map) return;
  const [least, most] = view.result.cover(map);
  coverColours = {
    colours: view.result.colours(COVER),
    low: intensity(least),
    high: `≥ ${intensity(most)}`,
    what: `uncertainty (standard deviation), ${UNIT}`,
  };
  // Off at first: the result itself comes before the doubts about it.
  $("cover-on").checked = false;
  setCover();
}

function setCover() {
  const on = $("cover-on").checked && coverColours !== null;
  view.result.setCoverOpacity(on ? $("cover").valueAsNumber : 0);
  showColours($("cover-colours"), on ? coverColours : null);
  view.draw();
}

/** A result has arrived. */
async function arrived(scan, { buffer, report, map }) {
  say("Showing the result …");
  if (report.stored_as) await refresh();
  // A PACS does not say which of its series is a result of which.
  const listed = report.stored_as && results.find(scan.id, report.stored_as);
  const key = listed ? listed.key : results.add(scan, buffer, report, map);
  if (scan.id !== state.scan) {
    say(`The result of ${nameOf(scan)} is there: choose ${nameOf(scan)} to see it.`);
    return;
  }
  offerResults();
  await openResult(key);
  say(report.stored_as ? `Kept as ${report.stored_as}.` : "Done. The result is not kept: it is gone when the page is closed.");
}

async function upload(files) {
  if (!files.length) return;
  // Whatever is chosen meanwhile is wanted instead.
  const { signal } = loading;
  const name = files.length === 1 ? files[0].name : `${files[0].name} and ${files.length - 1} more`;
  say(`Sending ${name} …`);
  const session = await sendScan(files, signal);
  const scan = { id: `sent ${session}`, session, name, domain: "", reason: name, spacing: null, madeFrom: null, report: null, error: null };
  sent.unshift(scan);
  scans = [scan, ...scans];
  showScans($("scans"), scans);
  try {
    await openScan(scan.id);
  } catch (error) {
    if (error instanceof Refused) scan.error = error.message;
    showScans($("scans"), scans);
    throw error;
  }
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
  $("report-note").textContent = report.note ?? NOT_FOR_DIAGNOSIS;
  showWarnings();
}

function showWarnings() {
  const warnings = view.result.filled ? [...(shown?.report?.warnings ?? []), ...misplaced(), ...left.warnings] : [];
  $("warnings").replaceChildren(
    ...warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
}

/** Say it if the two volumes do not fill the same part of the world. */
function misplaced() {
  const ends = view.scan.corners;
  const apart = (mm) => Math.min(...ends.map((end) => Math.hypot(...end.map((value, axis) => value - mm[axis]))));
  const most = Math.max(...view.result.volume.corners.map(apart));
  if (most <= Math.max(...view.result.volume.spacing)) return [];
  return [`The result does not lie where the scan lies: their corners are up to ${most.toFixed(1)} mm apart.`];
}

// -- what it is compared with --------------------------------------------------------------------------------------

function offerLeft() {
  const none = !view.result.filled;
  const others = results.of(state.scan).filter(({ key }) => key !== state.result);
  const images = scans.filter((scan) => scan.id !== state.scan && !scan.error && !scan.madeFrom && !scan.session);
  showChoices(
    $("left"),
    [
      ["The scan", Object.entries(BASELINES).map(([value, { choice, needsResult }]) => [value, choice, needsResult && none])],
      ["Another result of it", others.map(({ key, name, report }) => [`result:${key}`, [name, report?.model?.name].filter(Boolean).join(", "), none])],
      ["Another image at the same place", images.map((image) => [`image:${image.id}`, `${image.id}, ${spacing(image.spacing)}`, none])],
    ],
    state.left,
  );
}

/** Show something in the left pane; what cannot be shown leaves it as it was. */
async function chooseLeft(choice) {
  if (!view.scan) return;
  comparing.abort();
  comparing = new AbortController();
  const { signal } = comparing;
  let failure = null;
  view.subtract(null);
  try {
    veil("original", left.has(choice) ? "" : "Computing …");
    const volume = await left.choose(choice, { results, scans, signal });
    signal.throwIfAborted();
    if (view.original.volume !== volume) view.original.fill(volume);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    failure = error;
  }
  state.left = left.choice;
  veil("original", "");
  $("left").value = state.left;
  view.setNearest(state.left !== "linear");
  layOut();
  showWarnings();
  describeVolumes();
  remember();
  await subtract(signal);
  if (failure) throw failure;
}

/** Compute the difference if it is to be seen. */
async function subtract(signal) {
  if (state.mode !== "difference" || !view.result.filled || view.difference.filled) return;
  const [mine, theirs] = [view.result.volume, view.original.volume];
  const how = state.left === "nearest" ? "nearest" : "linear";
  const volume = await veiled("difference", "Computing the difference …", async () =>
    mine.like(await mine.minus(theirs, how, signal), DIFFERENCE),
  );
  signal.throwIfAborted();
  view.subtract(volume);
  veil("difference", "");
  showColours($("difference-colours"), differenceColours());
  layOut();
}

function differenceColours() {
  const most = intensity(view.limit);
  return { colours: view.difference.colours(DIFFERENCE), low: `−${most}`, high: `+${most}`, what: UNIT };
}

// -- what is drawn -------------------------------------------------------------------------------------------------

const panes = () => ({ original: view.original, result: view.result, difference: view.difference });

const blended = () => state.mode === "blend" && view.result.filled;
const subtracted = () => state.mode === "difference" && view.result.filled;

/** Captions: title, grid, how it is drawn. */
function captions() {
  const model = shown?.report?.model?.name;
  const said = (pane, title, how) => ({
    title,
    grid: pane.filled ? spacing(pane.volume.spacing) : "",
    how: pane.filled ? `${sliceOf(pane)}${how}` : "",
  });
  const original = said(view.original, left.title, left.how);
  const result = subtracted()
    ? said(view.result, "Difference", `super-resolved minus ${left.subtrahend}`)
    : said(view.result, model ? `Super-resolved (${model})` : "Super-resolved", "as computed: nearest voxel");
  return { original, result };
}

function describeVolumes() {
  const { original, result } = captions();
  for (const [name, { title, grid, how }] of Object.entries({ original, result })) {
    $(`${name}-name`).textContent = title;
    $(`${name}-grid`).textContent = grid;
    $(`${name}-caption`).textContent = how;
  }
  $("original-what").textContent = left.title;
  if (blended()) {
    const share = Math.round(100 * state.blend);
    $("blend-name").textContent = `${100 - share} % ${original.title} + ${share} % ${result.title}`;
    $("blend-caption").textContent = `${sliceOf(view.result)}${original.grid} (${left.how}) and ${result.grid}`;
  }
}

function sliceOf(pane) {
  if (state.plane === "all" || !pane.volume.contains(view.at)) return "";
  const axis = THROUGH[view.plane];
  return `slice ${pane.volume.voxel(view.at)[axis] + 1} of ${pane.volume.shape[axis]} · `;
}

/** There is nothing to point at. */
function showNoPlace() {
  $("place").textContent = "–";
  for (const name of Object.keys(panes())) {
    $(`${name}-value`).textContent = "–";
    $(`${name}-scale`).hidden = true;
    showLetters($(`${name}-letters`), []);
  }
  $("slice-of").textContent = "";
  for (const id of ["slice", "reset", "picture"]) $(id).disabled = true;
}

function showPlace() {
  describeVolumes();
  $("place").textContent = place(view.at);
  $("place").dataset.mm = view.at.map((mm) => mm.toFixed(3)).join(" ");
  for (const [name, pane] of Object.entries(panes())) {
    const value = pane.filled ? pane.volume.value(view.at) : null;
    $(`${name}-value`).textContent = pane.filled ? (name === "difference" ? signed(value) : intensity(value)) : "–";
    const seen = view.panes.includes(pane);
    if (seen) showScale($(`${name}-scale`), pane.scale, pane.canvas.clientWidth);
    else $(`${name}-scale`).hidden = true;
    showLetters($(`${name}-letters`), seen ? pane.tiles : []);
  }
  // One bar is enough where both are at one place.
  if (blended()) {
    $("original-scale").hidden = true;
    showLetters($("original-letters"), []);
  }
  $("difference-box").hidden = !view.difference.filled;
  if (view.result.filled) {
    const { at, original, result } = view;
    veil("result", result.volume.contains(at) ? "" : "The crosshair is outside the super-resolved volume.");
    if (original.filled) {
      const inside = original.volume.contains(at);
      if (!inside) veil("original", `The crosshair is outside ${left.title}.`);
      else if ($("original-veil").textContent.startsWith("The crosshair")) veil("original", "");
    }
  }
  const [axis, fine] = [THROUGH[view.active], view.fine];
  const slices = fine.shape[axis];
  $("slice").max = slices;
  for (const id of ["slice", "reset", "picture"]) $(id).disabled = false;
  $("slice").value = fine.voxel(view.at)[axis] + 1;
  $("slice-of").textContent = `${fine.voxel(view.at)[axis] + 1} of ${slices}, ${view.active}`;
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
    // What was sent, or is not kept, is nobody else's.
    const scan = scanOf(state.scan);
    const lasting = scan && !scan.session;
    const kept = (key) => (results.find(state.scan, key)?.kept ? key : "");
    const [kind, key] = partsOf(state.left);
    writeAddress({
      ...state,
      scan: lasting ? state.scan : "",
      result: lasting ? kept(state.result) : "",
      left: kind === "result" && !kept(key) ? "nearest" : state.left,
      at: view.scan ? view.at : null,
    });
  }, 300);
}

/** Put the panes side by side or on top of each other. */
function layOut() {
  const [blend, difference] = [blended(), subtracted()];
  $("stage").classList.toggle("blend", blend);
  $("stage").classList.toggle("difference", difference);
  $("original-head").hidden = $("result-head").hidden = blend;
  $("blend-head").hidden = !blend;
  view.subtracting = difference;
  // The upper picture fades. NiiVue's own overlays would not do: it resamples them, by nearest neighbour, to the grid of the
  // volume that was loaded first, so that one of the two would no longer be what it is. (With them the result would have
  // to come first, or it would be shown with the scan's thick slices.)
  $("result").style.opacity = blend ? state.blend : 1;
  $("cover-box").hidden = difference || !coverColours;
  if (!view.difference.filled) showColours($("difference-colours"), null);
  view.draw();
}

/** Set the controls and the panes to what the state says. */
function applyControls() {
  for (const input of document.getElementsByName("mode")) input.checked = input.value === state.mode;
  for (const input of document.getElementsByName("plane")) input.checked = input.value === (state.plane || view.plane);
  $("blend-box").hidden = state.mode !== "blend";
  $("blend").value = state.blend;
  layOut();
  view.setPlane(state.plane || view.plane);
  describeVolumes();
  remember();
}

function change(changes) {
  Object.assign(state, changes);
  applyControls();
  if (state.mode === "difference") attempt(() => subtract(comparing.signal));
}

const blendTo = (share) => change({ mode: "blend", blend: Math.min(Math.max(share, 0), 1) });

/** Switch to a way of showing, or back. */
const toggle = (mode) => change({ mode: state.mode === mode ? "side" : mode });

function nextBaseline() {
  const usable = Object.keys(BASELINES).filter((name) => view.result.filled || !BASELINES[name].needsResult);
  const next = usable[(usable.indexOf(state.left) + 1) % usable.length];
  attempt(() => chooseLeft(next));
}

// -- taking something along ----------------------------------------------------------------------------------------

const plainName = (text) => text.replace(/[^A-Za-z0-9._-]+/g, "_");

async function savePicture() {
  if (!view.scan) return;
  const scan = scanOf(state.scan);
  const { original, result } = captions();
  const seen = view.panes.map((pane, n) => ({
    canvas: () => pane.snapshot(),
    width: pane.canvas.clientWidth,
    height: pane.canvas.clientHeight,
    scale: pane.scale,
    tiles: pane.tiles,
    opacity: n === 1 && blended() ? state.blend : 1,
    title: blended() ? $("blend-name").textContent : `${(n ? result : original).title}  ${(n ? result : original).grid}`,
    how: blended() ? $("blend-caption").textContent : (n ? result : original).how,
    colours: pane === view.difference ? differenceColours() : pane === view.result && !$("cover-colours").hidden ? coverColours : null,
  }));
  const model = shown?.report?.model?.name;
  const blob = await drawPicture({
    panes: seen,
    stacked: blended(),
    lines: [
      `${nameOf(scan)}${model ? ` · ${model}` : ""} · ${view.plane === "all" ? "three planes" : view.plane} · ${place(view.at)} · window ${intensity(view.window[1] - view.window[0])}, level ${intensity((view.window[0] + view.window[1]) / 2)}`,
      shown?.report?.note ?? `Research software. ${NOT_FOR_DIAGNOSIS}`,
    ],
  });
  save(blob, `${plainName(nameOf(scan))}_${view.plane}.png`);
}

async function download() {
  const { name, buffer } = await results.file(shown, loading.signal);
  save(new Blob([buffer]), plainName(name));
}

// -- listening -----------------------------------------------------------------------------------------------------

function listen() {
  for (const group of ["mode", "plane"]) {
    $(group).addEventListener("change", (event) => change({ [group]: event.target.value }));
  }
  $("left").addEventListener("change", () => attempt(() => chooseLeft($("left").value)));
  $("blend").addEventListener("input", () => blendTo($("blend").valueAsNumber));
  $("slice").addEventListener("input", () => view.scan && view.turnTo($("slice").valueAsNumber - 1));
  $("scans").addEventListener("change", (event) => attempt(() => openScan(event.target.value)));
  $("results").addEventListener("change", (event) => attempt(() => openResult(event.target.value)));
  $("upload").addEventListener("change", () => {
    const files = Array.from($("upload").files);
    $("upload").value = "";
    attempt(() => upload(files));
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    attempt(() => upload(Array.from(event.dataTransfer.files)));
  });
  $("download").addEventListener("click", () => attempt(download));
  $("picture").addEventListener("click", () => attempt(savePicture));
  const setWindow = () => {
    const [width, level] = [$("width").valueAsNumber, $("level").valueAsNumber];
    if (width > 0 && Number.isFinite(level)) view.setWindow(level - width / 2, level + width / 2);
  };
  $("width").addEventListener("change", setWindow);
  $("level").addEventListener("change", setWindow);
  $("reset").addEventListener("click", () => view.scan && view.begin(view.scan));
  $("cover").addEventListener("input", setCover);
  $("cover-on").addEventListener("change", setCover);
  $("help-open").addEventListener("click", () => $("help").showModal());
  view.addEventListener("drawn", () => {
    showPlace();
    remember();
  });
  // NiiVue draws by itself when its canvas changes its size, each pane for itself.
  const resized = new ResizeObserver(() => view.draw());
  for (const name of ["original", "result", "difference"]) resized.observe($(`${name}-pane`));
  window.addEventListener("hashchange", () => attempt(followAddress));
  for (const [name, pane] of Object.entries(panes())) listenToPointer($(name), pane, view);
  listenToKeys(view, $("original"), {
    1: () => change({ plane: "sagittal" }),
    2: () => change({ plane: "coronal" }),
    3: () => change({ plane: "axial" }),
    4: () => change({ plane: "all" }),
    b: () => toggle("blend"),
    d: () => toggle("difference"),
    i: nextBaseline,
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
  const { scan, result, left: before } = state;
  Object.assign(state, wanted, { scan, result });
  applyControls();
  if (wanted.scan && wanted.scan !== scan) {
    await openScan(wanted.scan, wanted.result);
  } else if (wanted.result !== result && wanted.result) {
    await openResult(wanted.result);
  } else if (wanted.left !== before) {
    await chooseLeft(wanted.left);
  } else if (wanted.at && view.scan?.contains(wanted.at)) {
    view.moveTo(wanted.at);
  }
  state.at = null;
}

async function begin() {
  let drawn;
  try {
    drawn = await Promise.all(["original", "result", "difference"].map((id) => Pane.on($(id))));
  } catch (error) {
    throw new Refused(`This browser cannot draw the slices: it needs WebGL 2 (${error.message}).`);
  }
  view = new View(...drawn);
  left = new Left();
  runner = new Runner(arrived, say, complain);
  offerLeft();
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
  else veil("original", "There are no scans on this server yet: open one from this computer.");
}

attempt(begin);
