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
        name: scan.name || scan.description || scan.id,
        tag: scan.session ? "sent" : (WORDS[scan.domain] ?? scan.domain),
        more: scan.error ? "cannot be read" : scan.session ? "with the server for an hour" : spacing(scan.spacing),
        disabled: Boolean(scan.error),
        hint: scan.error ?? scan.reason,
      }),
    );
  fill(box, entries, "There are no scans in the studies folder yet.");
}

/**
 * Show what there is of a scan.
 * @param {HTMLElement} box
 * @param {Array<{key: string, name: string, kept: boolean, hasMap: boolean, report: object, spacing: number[]|null}>} results
 */
export function showResults(box, results) {
  const entries = results.map(({ key, name, kept, hasMap, report, spacing: mm }) =>
    entry("result", key, {
      name,
      tag: kept ? "kept" : report?.stored_as ? "in the PACS" : "not kept",
      more: [report?.model?.name, spacing(mm ?? report?.result?.spacing ?? null), hasMap ? "uncertainty map" : ""]
        .filter(Boolean)
        .join(", "),
      disabled: false,
      hint: kept ? name : "gone when the page is closed",
    }),
  );
  fill(box, entries, "None yet.");
}

/**
 * Fill the list of what the left pane can show.
 * @param {HTMLSelectElement} list
 * @param {Array<[string, Array<[string, string, boolean?]>]>} groups title, then value, text, and whether it cannot be chosen now
 * @param {string} chosen
 */
export function showChoices(list, groups, chosen) {
  list.replaceChildren(
    ...groups
      .filter(([, choices]) => choices.length)
      .map(([title, choices]) => {
        const group = Object.assign(document.createElement("optgroup"), { label: title });
        group.append(
          ...choices.map(([value, text, disabled = false]) =>
            Object.assign(new Option(text, value, false, value === chosen), { disabled }),
          ),
        );
        return group;
      }),
  );
}

/** Tick an entry, if there is one of that value. */
export function tick(box, value) {
  for (const input of box.querySelectorAll("input")) input.checked = input.value === value;
}
