// @ts-check
/**
 * Where the tiles go: as large as the room allows, rows centred; or one large and the others in a strip beside it.
 * Pure; the page hands the boxes to CSS as custom properties, which animates them.
 *
 * @typedef {{ x: number, y: number, width: number, height: number }} Box
 * @typedef {{ width: number, height: number, gap: number }} Area
 */

const WIDEST = 16 / 9;
/** On an upright screen faces may be cropped closer than on a wide one. */
const NARROWEST = { upright: 0.8, wide: 4 / 3 };
const STRIP_SHARE = 0.22;

/**
 * @param {Area} area
 * @param {number} count
 * @returns {Box[]}
 */
export function grid(area, count) {
  if (count === 0) return [];
  const narrowest = area.width < area.height ? NARROWEST.upright : NARROWEST.wide;
  let best = { columns: 1, width: 0, height: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const size = fit((area.width - area.gap * (columns - 1)) / columns, (area.height - area.gap * (rows - 1)) / rows, narrowest);
    if (size.width * size.height > best.width * best.height) best = { columns, ...size };
  }
  return rowsOf(area, count, best);
}

/**
 * @param {Area} area
 * @param {number} count
 * @param {{ columns: number, width: number, height: number }} tile
 * @returns {Box[]}
 */
function rowsOf(area, count, { columns, width, height }) {
  const rows = Math.ceil(count / columns);
  const top = (area.height - rows * height - (rows - 1) * area.gap) / 2;
  return Array.from({ length: count }, (_, index) => {
    const row = Math.floor(index / columns);
    const inRow = Math.min(columns, count - row * columns);
    const left = (area.width - inRow * width - (inRow - 1) * area.gap) / 2;
    return { x: left + (index % columns) * (width + area.gap), y: top + row * (height + area.gap), width, height };
  });
}

/**
 * @param {Area} area
 * @param {number} count
 * @param {number} large index of the tile that gets most of the room
 * @returns {Box[]}
 */
export function spotlight(area, count, large) {
  if (count === 1) return [{ x: 0, y: 0, width: area.width, height: area.height }];
  const upright = area.width < area.height;
  const strip = Math.min(200, (upright ? area.height : area.width) * STRIP_SHARE);
  const others = count - 1;
  const main = upright
    ? { x: 0, y: 0, width: area.width, height: area.height - strip - area.gap }
    : { x: 0, y: 0, width: area.width - strip - area.gap, height: area.height };
  const length = upright ? area.width : area.height;
  const step = (length - area.gap * (others - 1)) / others;
  const size = upright ? fit(step, strip, 0.8) : fit(strip, step, 0.8);
  const start = (length - others * (upright ? size.width : size.height) - (others - 1) * area.gap) / 2;
  let place = 0;
  return Array.from({ length: count }, (_, index) => {
    if (index === large) return main;
    const along = start + place * ((upright ? size.width : size.height) + area.gap);
    place += 1;
    return upright
      ? { x: along, y: area.height - strip, ...size }
      : { x: area.width - strip, y: along, ...size };
  });
}

/**
 * The largest size within width and height whose aspect is neither too wide nor too narrow.
 * @param {number} width
 * @param {number} height
 * @param {number} narrowest
 */
function fit(width, height, narrowest) {
  if (width <= 0 || height <= 0) return { width: 0, height: 0 };
  if (width / height > WIDEST) return { width: height * WIDEST, height };
  if (width / height < narrowest) return { width, height: width / narrowest };
  return { width, height };
}
