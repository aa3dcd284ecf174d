// What the page asks of the server: addresses of its HTTP API, refusals as sentences.

/** What went wrong, as one sentence for the user. */
export class Refused extends Error {}

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
  throw new Refused(sentence);
}

const json = async (address, options) => (await send(address, options)).json();

const spacingOf = (info) =>
  Array.isArray(info.spacing) && info.spacing.length === 3 && info.spacing.every((mm) => mm > 0) ? info.spacing : null;

/**
 * List the scans of the datastore: thick slices first.
 * @returns {Promise<Array<{id: string, domain: string, reason: string, spacing: number[]|null, madeFrom: string|null,
 *   report: object|null, error: string|null}>>}
 */
export async function listScans() {
  const { objects } = await json(at("datastore/", { output: "all" }));
  const scans = Object.entries(objects ?? {}).map(([id, object]) => {
    const info = object?.image?.info ?? {};
    return {
      id,
      domain: String(info.domain ?? ""),
      reason: String(info.domain_reason ?? ""),
      spacing: spacingOf(info),
      madeFrom: typeof info.made_from === "string" ? info.made_from : null,
      report: info.report ?? null,
      error: typeof info.error === "string" ? info.error : null,
    };
  });
  const order = ["LR", "neither", "", "HR", "SR"];
  const rank = ({ domain, error }) => (error ? order.length : Math.max(order.indexOf(domain), 0));
  return scans.sort((a, b) => rank(a) - rank(b) || a.id.localeCompare(b.id));
}

/**
 * Tell which models and options the server has: `{version, weights, cards, options, described}`; the last has label, help
 * and kind of each option.
 */
export async function describe() {
  const info = await json(at("info/"));
  const model = info.models?.srcyc ?? {};
  const options = model.config ?? {};
  const weights = Array.isArray(options.weights) ? options.weights : [];
  const { cards = {}, options: described = {} } = model;
  return { version: String(info.version ?? ""), weights, cards, options, described };
}

/** Fetch a scan of the datastore as NIfTI: an ArrayBuffer. */
export async function fetchVolume(image, signal) {
  return (await send(at("compare/volume", { image }), { signal })).arrayBuffer();
}

/** Fetch the volume of a session, and let the server forget the session: it was made for this page only. */
export async function takeSession(id) {
  const address = at(`session/${encodeURIComponent(id)}`, { image: "true" });
  const buffer = await (await send(address)).arrayBuffer();
  send(at(`session/${encodeURIComponent(id)}`), { method: "DELETE" }).catch(() => {});
  return buffer;
}

/**
 * Super-resolve a scan.
 * @param {string} image
 * @param {object} wishes as the server's options
 * @param {(state: string, share: number) => void} tell
 * @param {AbortSignal} signal closing the connection is what cancels the work on the server
 * @returns {Promise<{buffer: ArrayBuffer, report: object}>}
 */
export async function superResolve(image, wishes, tell, signal) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const body = new FormData();
  body.set("params", JSON.stringify({ ...wishes, request_id: id, result_extension: ".nii" }));
  const watching = watch(id, tell, signal);
  try {
    const reply = await send(at("infer/srcyc", { image }), { method: "POST", body, signal });
    const parts = await reply.formData();
    return { buffer: await parts.get("image").arrayBuffer(), report: JSON.parse(parts.get("params")) };
  } finally {
    watching.stop();
  }
}

function watch(id, tell, signal) {
  let over = false;
  const look = async () => {
    if (over || signal.aborted) return;
    try {
      const { state, share } = await json(at(`progress/${id}`), { signal });
      if (!over && !signal.aborted) tell(state, share);
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
