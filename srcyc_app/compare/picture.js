// A picture to save: what is shown, with what it is of and what it is not for.

import { barLength, letters } from "./marks.js";

const INK = "#e8ecf1";
const FAINT = "#b9c3cf";
const GROUND = "#1a2028";

/**
 * Draw a picture.
 * @param {object} shown
 * @param {Array<{canvas: () => HTMLCanvasElement, width: number, height: number, tiles: object[],
 *   opacity: number, title: string, how: string, scale: number, colours: object|null}>} shown.panes left to right; `canvas` draws it anew
 * @param {boolean} shown.stacked on top of each other instead
 * @param {string[]} shown.lines below the picture
 * @returns {Promise<Blob>} PNG
 */
export function draw({ panes, stacked, lines }) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [panes[0].width, panes[0].height];
  const columns = stacked ? 1 : panes.length;
  const gap = 4;
  const [head, line] = [44, 18];
  const picture = document.createElement("canvas");
  const [wide, high] = [columns * width + (columns - 1) * gap, head + height + 10 + line * lines.length];
  [picture.width, picture.height] = [Math.round(wide * ratio), Math.round(high * ratio)];
  const pen = picture.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = GROUND;
  pen.fillRect(0, 0, wide, high);
  const write = (text, x, y, colour, font, room) => {
    pen.fillStyle = colour;
    pen.font = font;
    pen.fillText(text, x, y, room);
  };
  panes.forEach((pane, n) => {
    const x = stacked ? 0 : n * (width + gap);
    if (!stacked || n === 0) {
      write(pane.title, x + 8, 18, INK, "600 14px system-ui, sans-serif", width - 16);
      write(pane.how, x + 8, 36, FAINT, "12px system-ui, sans-serif", width - 16);
    }
    pen.globalAlpha = pane.opacity;
    pen.drawImage(pane.canvas(), x, head, width, height);
    pen.globalAlpha = 1;
    pen.textAlign = "center";
    for (const { letter, x: across, y } of letters(pane.tiles)) {
      write(letter, x + across, head + y + 4, INK, "600 12px system-ui, sans-serif", 20);
    }
    pen.textAlign = "left";
    const mm = barLength(pane.scale, width);
    const [left, bottom] = [x + 8, head + height - 8];
    pen.fillStyle = INK;
    pen.fillRect(left, bottom - 3, mm * pane.scale, 2);
    write(`${mm} mm`, left + mm * pane.scale + 6, bottom, INK, "11px system-ui, sans-serif", 60);
    if (pane.colours) colourBar(pen, pane.colours, x + width - 8, bottom, write);
  });
  lines.forEach((text, n) => write(text, 8, head + height + 20 + line * n, n ? FAINT : INK, "12px system-ui, sans-serif", wide - 16));
  return new Promise((resolve, reject) => {
    picture.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the picture is too large"))), "image/png");
  });
}

/** Draw a bar of colours as the page has it, its right end at a place. */
function colourBar(pen, { colours, low, high, what }, right, bottom, write) {
  const [width, font] = [120, "11px system-ui, sans-serif"];
  pen.font = font;
  const room = pen.measureText(high).width + 6;
  const from = right - width - room;
  const fading = pen.createLinearGradient(from, 0, from + width, 0);
  colours.forEach((colour, n) => fading.addColorStop(n / (colours.length - 1), colour));
  pen.fillStyle = fading;
  pen.fillRect(from, bottom - 9, width, 8);
  pen.textAlign = "right";
  write(low, from - 6, bottom, INK, font, 80);
  write(what, right, bottom - 14, INK, font, 300);
  pen.textAlign = "left";
  write(high, from + width + 6, bottom, INK, font, 80);
}

/** Let the browser save something. */
export function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
