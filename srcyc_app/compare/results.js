// What there is of each scan: results that the server keeps, and those that were made here and are not kept.

import { fetchFile, fetchSession, fetchVolume } from "./server.js";
import { Volume } from "./volume.js";

/** Results that are not kept are remembered, of each scan, up to this many: each may take 100 MB. */
const REMEMBERED = 4;

/** Where the browser remembers, until its tab is closed, which session holds the map of a kept result. */
const MAPS = "srcyc-maps";

/** In front of the key of what is not kept: no id has it. */
const MADE = "*";

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(MAPS)) ?? {};
  } catch {
    // Switched off, or nobody's writing of ours.
    return {};
  }
}

export class Results {
  #kept = [];
  /** By scan: newest first. */
  #made = new Map();
  #count = 0;

  /** Take up what the server lists. */
  list(scans) {
    const maps = remembered();
    this.#kept = scans
      .filter(({ madeFrom, error }) => madeFrom && !error)
      .map(({ id, madeFrom, report, spacing, stored }) => {
        const session = maps[id]?.stored === stored ? maps[id].session : null;
        return { key: id, id, scan: madeFrom, name: id, kept: true, hasMap: Boolean(session), mapSession: session, report, spacing, stored };
      });
  }

  /** A result has arrived; give its key. */
  add(scan, buffer, report) {
    const session = report.uncertainty_session ?? null;
    if (report.stored_as) {
      this.#pending = { id: report.stored_as, session };
      return report.stored_as;
    }
    const made = this.#made.get(scan.id) ?? [];
    const number = ++this.#count;
    made.unshift({
      key: `${MADE}${number}`,
      scan: scan.id,
      name: made.length ? `just made (${number})` : "just made",
      kept: false,
      hasMap: Boolean(session),
      mapSession: session,
      report,
      buffer,
    });
    this.#made.set(scan.id, made.slice(0, REMEMBERED));
    return made[0].key;
  }

  #pending = null;

  /** Remember the map of what has just been kept, until it is replaced or the session is over. */
  remember() {
    const { id, session } = this.#pending ?? {};
    const kept = this.#kept.find((result) => result.id === id);
    this.#pending = null;
    if (!kept) return;
    const maps = remembered();
    if (session) maps[id] = { session, stored: kept.stored };
    else delete maps[id];
    Object.assign(kept, { mapSession: session, hasMap: Boolean(session) });
    try {
      sessionStorage.setItem(MAPS, JSON.stringify(maps));
    } catch {
      // Switched off: it is offered as long as the page is open.
    }
  }

  /** List those of a scan: made here first. */
  of(scan) {
    return [...(this.#made.get(scan) ?? []), ...this.#kept.filter((result) => result.scan === scan)];
  }

  find(scan, key) {
    return this.of(scan).find((result) => result.key === key);
  }

  /** Give a result's volume; what was loaded is kept as long as the result is listed. */
  async volume(result, signal) {
    return Volume.read(result.buffer ?? (await fetchVolume(result, signal)));
  }

  /** Give the map that was made with a result; null: there is none, or its session is over. */
  async map(result) {
    if (!result.mapSession) return null;
    const buffer = await fetchSession(result.mapSession);
    if (buffer === null) {
      Object.assign(result, { mapSession: null, hasMap: false });
      return null;
    }
    return Volume.read(buffer, "inferno");
  }

  /** Give the file of a result, and a name for it: it says within itself how it was made. */
  async file(result, signal) {
    if (!result.buffer) return fetchFile(result, signal);
    const stem = (result.report?.output ?? result.name).replace(/\.(nii|nii\.gz|nrrd|mha)$/i, "");
    return { name: `${stem}.nii`, buffer: result.buffer };
  }
}
