// What lies over the pictures: letters at their sides, scale bars in mm, and bars of colours with their values.

/** Sides of the patient at the sides of a plane, as radiologists have it and as pane.js has them drawn. */
const SIDES = {
  axial: { left: "R", right: "L", top: "A", bottom: "P" },
  coronal: { left: "R", right: "L", top: "S", bottom: "I" },
  sagittal: { left: "A", right: "P", top: "S", bottom: "I" },
};

/** Lengths that a scale bar may have, mm, and how wide it is at most, CSS pixels and share of the pane. */
const LENGTHS = [1, 2, 5, 10, 20, 50, 100, 200];
const WIDEST = [110, 0.2];

/** Give the length of a scale bar, mm. */
export function barLength(pixelsPerMm, paneWidth) {
  const widest = Math.min(WIDEST[0], WIDEST[1] * paneWidth);
  return LENGTHS.filter((mm) => mm * pixelsPerMm <= widest).at(-1) ?? LENGTHS[0];
}

/**
 * List the letters at the sides of planes, and the middle of each, CSS pixels.
 * @param {Array<{plane: string, left: number, top: number, width: number, height: number}>} tiles
 */
export function letters(tiles) {
  const inset = 10;
  return tiles.flatMap(({ plane, left, top, width, height }) => {
    const places = {
      left: [left + inset, top + height / 2],
      right: [left + width - inset, top + height / 2],
      top: [left + width / 2, top + inset],
      bottom: [left + width / 2, top + height - inset],
    };
    return Object.entries(SIDES[plane] ?? {}).map(([side, letter]) => ({ letter, side, x: places[side][0], y: places[side][1] }));
  });
}

/** Put letters over a pane. */
export function showLetters(box, tiles) {
  const wanted = letters(tiles);
  const key = JSON.stringify(wanted);
  // It is asked at every movement; they rarely change.
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(
    ...wanted.map(({ letter, side, x, y }) => {
      const element = Object.assign(document.createElement("span"), { textContent: letter, className: side });
      [element.style.left, element.style.top] = [`${x}px`, `${y}px`];
      return element;
    }),
  );
}

/** Draw a scale bar. */
export function showScale(bar, pixelsPerMm, paneWidth) {
  const mm = barLength(pixelsPerMm, paneWidth);
  bar.firstElementChild.style.width = `${mm * pixelsPerMm}px`;
  bar.lastElementChild.textContent = `${mm} mm`;
  bar.hidden = false;
}

/**
 * Draw a bar of colours.
 * @param {HTMLElement} box
 * @param {{colours: string[], low: string, high: string, what: string}|null} wanted null: none
 */
export function showColours(box, wanted) {
  box.hidden = !wanted;
  if (!wanted) return;
  for (const part of ["low", "high", "what"]) box.querySelector(`.${part}`).textContent = wanted[part];
  box.querySelector(".colours").style.background = `linear-gradient(to right, ${wanted.colours.join(", ")})`;
}
