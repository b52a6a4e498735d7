// @ts-check
/** The grid: which tiles there are, where they are, and which one is large. */

import { byId } from "./element.js";
import { grid, spotlight } from "./layout.js";
import { Tile } from "./tile.js";

const GAP = 10;

export class Stage {
  /** Remote tiles by peer id. @type {Map<string, Tile>} */
  tiles = new Map();
  /** @type {Tile | undefined} */
  #pinned;
  #grid = byId("grid");
  #invite = byId("invite");
  /** In its place while somebody inside is asked whether to let us in. */
  #waiting = byId("waiting");
  #atDoor = false;
  #observer = new ResizeObserver(() => this.arrange());

  /** @param {(peer: string, name: string) => void} onRemove asks whether somebody is to be removed */
  constructor(onRemove) {
    this.onRemove = onRemove;
    this.own = new Tile({ onPin: () => this.#pin(this.own) });
    this.#grid.prepend(this.own.element);
    this.#observer.observe(this.#grid);
  }

  /** The tile of a peer; made on first use. @param {string} peer */
  tile(peer) {
    const known = this.tiles.get(peer);
    if (known !== undefined) return known;
    const tile = new Tile({ peer, onPin: () => this.#pin(tile), onRemove: () => this.onRemove(peer, tile.name) });
    this.tiles.set(peer, tile);
    this.#grid.insertBefore(tile.element, this.#invite);
    this.arrange();
    return tile;
  }

  /** @param {string} peer */
  remove(peer) {
    const tile = this.tiles.get(peer);
    if (tile === undefined) return;
    this.tiles.delete(peer);
    if (this.#pinned === tile) this.#pinned = undefined;
    tile.remove();
    this.arrange();
  }

  /** @param {boolean} atDoor */
  wait(atDoor) {
    if (this.#atDoor === atDoor) return;
    this.#atDoor = atDoor;
    this.arrange();
  }

  arrange() {
    const alone = this.tiles.size === 0;
    this.#invite.hidden = !alone || this.#atDoor;
    this.#waiting.hidden = !this.#atDoor;
    const tiles = [this.own, ...this.tiles.values()];
    const elements = tiles.map((tile) => tile.element);
    if (alone) elements.push(this.#atDoor ? this.#waiting : this.#invite);
    const area = { width: this.#grid.clientWidth, height: this.#grid.clientHeight, gap: GAP };
    const large = alone ? -1 : this.#large(tiles);
    const boxes = large < 0 ? grid(area, elements.length) : spotlight(area, elements.length, large);
    elements.forEach((element, index) => {
      const { x, y, width, height } = boxes[index];
      for (const [name, value] of Object.entries({ x, y, width, height })) {
        element.style.setProperty(`--${name}`, `${Math.floor(value)}px`);
      }
      element.toggleAttribute("data-small", width < 240);
      element.toggleAttribute("data-tiny", width < 180);
    });
  }

  /** Whoever is pinned, or else whoever shows a screen. @param {Tile[]} tiles */
  #large(tiles) {
    if (this.#pinned !== undefined) return tiles.indexOf(this.#pinned);
    return tiles.findIndex((tile) => tile.screen && tile !== this.own);
  }

  /** @param {Tile} tile */
  #pin(tile) {
    const pinned = this.#pinned === tile ? undefined : tile;
    this.#pinned?.setPinned(false);
    this.#pinned = pinned;
    pinned?.setPinned(true);
    this.arrange();
  }

  translate() {
    for (const tile of [this.own, ...this.tiles.values()]) tile.translate();
  }

  close() {
    this.#observer.disconnect();
    this.#waiting.hidden = true;
    for (const peer of [...this.tiles.keys()]) this.remove(peer);
    this.own.remove();
  }
}
