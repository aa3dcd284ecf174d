// What the page asks of the server: addresses of its HTTP API, refusals as sentences.

/** What went wrong, as one sentence for the user. */
export class Refused extends Error {
  /**
   * @param {string} sentence
   * @param {number} [status] of the server's reply
   */
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

// Every address is relative to the page's own, so that it also works below a proxy's path.
const at = (path, query = {}) => {
  const address = new URL(`../${path}`, document.baseURI);
  for (const [key, value] of Object.entries(query)) address.searchParams.set(key, value);
  return address;
};

async function send(address, options = {}) {
  let reply;
  try {
    reply = await fetch(address, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it still running? Reload the page when it is back.");
  }
  if (reply.ok) return reply;
  let sentence;
  try {
    sentence = (await reply.json()).detail;
  } catch {
    // A proxy in between answers in HTML.
  }
  if (typeof sentence !== "string") sentence = `The server answered ${reply.status} ${reply.statusText}.`;
  throw new Refused(sentence, reply.status);
}

const json = async (address, options) => (await send(address, options)).json();

const spacingOf = (info) =>
  Array.isArray(info.spacing) && info.spacing.length === 3 && info.spacing.every((mm) => mm > 0) ? info.spacing : null;

/**
 * List the scans of the datastore: thick slices first.
 * @returns {Promise<Array<{id: string, description: string, domain: string, reason: string, spacing: number[]|null,
 *   madeFrom: string|null, report: object|null, maps: string[], error: string|null}>>}
 */
export async function listScans() {
  const { objects } = await json(at("datastore/", { output: "all" }));
  const scans = Object.entries(objects ?? {}).map(([id, object]) => {
    const info = object?.image?.info ?? {};
    return {
      id,
      description: String(info.description ?? ""),
      domain: String(info.domain ?? ""),
      reason: String(info.domain_reason ?? ""),
      spacing: spacingOf(info),
      madeFrom: typeof info.made_from === "string" ? info.made_from : null,
      report: info.report ?? null,
      maps: Object.keys(object?.labels ?? {}),
      error: typeof info.error === "string" ? info.error : null,
    };
  });
  const order = ["LR", "neither", "", "HR", "SR"];
  const rank = ({ domain, error }) => (error ? order.length : Math.max(order.indexOf(domain), 0));
  return scans.sort((a, b) => rank(a) - rank(b) || a.id.localeCompare(b.id));
}

/**
 * Tell which models and options the server has: `{weights, cards, options, described}`; the last has label, help and kind
 * of each option.
 */
export async function describe() {
  const info = await json(at("info/"));
  const model = info.models?.srcyc ?? {};
  const options = model.config ?? {};
  const weights = Array.isArray(options.weights) ? options.weights : [];
  const { cards = {}, options: described = {} } = model;
  return { weights, cards, options, described };
}

/** How the server is told of a scan: by its id, or by the session that it was sent in. */
const named = ({ id, session }) => (session ? { session_id: session } : { image: id });

/** Fetch a scan as NIfTI: an ArrayBuffer. */
export async function fetchVolume(scan, signal) {
  return (await send(at("compare/volume", named(scan)), { signal })).arrayBuffer();
}

/** Fetch the uncertainty map that the server keeps with a result, as NIfTI. */
export async function fetchMap({ id }, signal) {
  return (await send(at("compare/volume", { image: id, map: "uncertainty" }), { signal })).arrayBuffer();
}

/** Fetch the file of a scan of the datastore as it is kept there, and its name. */
export async function fetchFile({ id }, signal) {
  const reply = await send(at("datastore/image", { image: id }), { signal });
  const name = /filename="?([^";]+)"?/.exec(reply.headers.get("content-disposition") ?? "")?.[1];
  return { name: name ?? id, buffer: await reply.arrayBuffer() };
}

/**
 * Fetch what needs no network: a scan on the grid of a result, as NIfTI.
 * @param {{id: string, session?: string}} scan
 * @param {"cubic"|"classical"} method
 * @param {number[]} shape of the result, along the axes of its file
 * @param {number|undefined} thickness of the slices, mm; undefined: the server finds out
 */
export async function fetchBaseline(scan, method, shape, thickness, signal) {
  const said = thickness > 0 ? { thickness } : {};
  const address = at("compare/baseline", { ...named(scan), method, shape: shape.join(","), ...said });
  return (await send(address, { signal })).arrayBuffer();
}

/** Fetch the volume of a session, which is over then; null if it was over before. */
async function takeSession(id, signal) {
  const address = at(`session/${encodeURIComponent(id)}`, { image: "true" });
  try {
    return await (await send(address, { signal })).arrayBuffer();
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  } finally {
    // If that does not reach the server: it expires.
    send(at(`session/${encodeURIComponent(id)}`), { method: "DELETE" }).catch(() => {});
  }
}

/**
 * Send files: a volume, a zip archive, or those of a DICOM series.
 * @returns {Promise<string>} the session that holds them for an hour
 */
export async function sendScan(files, signal) {
  const body = new FormData();
  for (const file of files) body.append("files", file, file.name);
  const packed = files.length === 1 && files[0].name.toLowerCase().endsWith(".zip");
  const address = at("session/", packed ? { uncompress: "true" } : {});
  return (await json(address, { method: "PUT", body, signal })).session_id;
}

/**
 * Super-resolve a scan.
 * @param {{id: string, session?: string}} scan
 * @param {object} wishes as the server's options
 * @param {(progress: {state: string, share: number, position?: number}) => void} tell
 * @param {AbortSignal} signal closing the connection is what cancels the work on the server
 * @returns {Promise<{buffer: ArrayBuffer, report: object, map: ArrayBuffer|null}>} the volume, and its uncertainty map
 */
export async function superResolve(scan, wishes, tell, signal) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const body = new FormData();
  body.set("params", JSON.stringify({ ...wishes, request_id: id, result_extension: ".nii" }));
  const watching = watch(id, tell, signal);
  try {
    const reply = await send(at("infer/srcyc", named(scan)), { method: "POST", body, signal });
    const parts = await reply.formData();
    const report = JSON.parse(parts.get("params"));
    const session = report.uncertainty_session;
    const map = session ? await takeSession(session, signal) : null;
    return { buffer: await parts.get("image").arrayBuffer(), report, map };
  } finally {
    watching.stop();
  }
}

function watch(id, tell, signal) {
  let over = false;
  const look = async () => {
    if (over || signal.aborted) return;
    try {
      const progress = await json(at(`progress/${id}`), { signal });
      if (!over && !signal.aborted) tell(progress);
    } catch {
      // The request has not arrived yet, or the reply to it says what is wrong.
    }
    setTimeout(look, 400);
  };
  setTimeout(look, 400);
  return {
    stop() {
      over = true;
    },
  };
}
