// Lists of scans and results to choose from. Names come from the server and go into the page as text only.

import { spacing } from "./text.js";

const WORDS = { LR: "thick (LR)", HR: "thin (HR)", SR: "result (SR)", neither: "neither" };

function entry(group, value, { name, tag, more, disabled, hint }) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: group, value, disabled });
  const part = (className, text) => Object.assign(document.createElement("span"), { className, textContent: text });
  label.append(input, part("name", name), part("domain", tag), part("more", more));
  label.title = hint;
  return label;
}

function fill(box, entries, empty) {
  box.replaceChildren(...(entries.length ? entries : [Object.assign(document.createElement("p"), { textContent: empty })]));
}

/** Show the scans; results are listed with their scan, and as scans only if that is gone. */
export function showScans(box, scans) {
  const ids = new Set(scans.map(({ id }) => id));
  const entries = scans
    .filter(({ madeFrom }) => !madeFrom || !ids.has(madeFrom))
    .map((scan) =>
      entry("scan", scan.id, {
        name: scan.id,
        tag: WORDS[scan.domain] ?? scan.domain,
        more: scan.error ? "cannot be read" : spacing(scan.spacing),
        disabled: Boolean(scan.error),
        hint: scan.error ?? scan.reason,
      }),
    );
  fill(box, entries, "There are no scans in the studies folder yet.");
}

/**
 * Show what there is of a scan.
 * @param {HTMLElement} box
 * @param {object[]} kept results in the datastore
 * @param {{report: object}|undefined} made what was just computed, if it was not kept
 */
export function showResults(box, kept, made) {
  const entries = kept.map(({ id, spacing: mm, report }) =>
    entry("result", id, { name: id, tag: "kept", more: detail(report, mm), disabled: false, hint: id }),
  );
  if (made) {
    const more = detail(made.report, made.report.result?.spacing);
    const hint = "gone when the page is closed";
    entries.unshift(entry("result", "", { name: "just made", tag: "not kept", more, disabled: false, hint }));
  }
  fill(box, entries, "None yet.");
}

const detail = (report, mm) => [report?.model?.name, spacing(mm ?? null)].filter(Boolean).join(", ");

/** Tick an entry, if there is one of that value. */
export function tick(box, value) {
  for (const input of box.querySelectorAll("input")) input.checked = input.value === value;
}
