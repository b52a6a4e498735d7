// @ts-check
/**
 * Which transport the next connection takes. The rungs are numbered from the best (0, a WebSocket) down.
 *
 * Nobody tells a page what the network lets through; it finds out by trying. As long as no rung has brought a `welcome`, each
 * is tried at once after the one above. Later a failure is rather the server's or the network's than the transport's: the
 * rung that worked is tried again first, and others only after that.
 */

/** A handshake and its welcome take four round trips at most. Who needs longer goes one rung down, and up again later. */
const PROBE_MS = 2_000;
/** For a rung that has worked, on a server that may be busy with everybody else's return. */
const PROVEN_MS = 5_000;
/** For the last one: there is nothing to hurry to. */
const LAST_MS = 10_000;

export class Ladder {
  /** The rung that brought the last welcome. @type {number | undefined} */
  #proven;
  /** Attempts without a welcome since. */
  #failures = 0;

  /** @param {number} rungs how many there are */
  constructor(rungs) {
    this.rungs = rungs;
  }

  /** The rung of the next attempt. */
  get rung() {
    if (this.#proven === undefined) return this.#failures % this.rungs;
    return (this.#proven + Math.max(0, this.#failures - 1)) % this.rungs;
  }

  /** How long that attempt may take until its welcome. */
  get deadline_ms() {
    if (this.rung === this.rungs - 1) return LAST_MS;
    return this.#proven === undefined ? PROBE_MS : PROVEN_MS;
  }

  /** An attempt led to no welcome. True if the next one need not wait: it is the first on its rung. */
  failed() {
    this.#failures += 1;
    return this.#proven === undefined && this.rung !== 0;
  }

  /** @param {number} rung it brought a welcome */
  proved(rung) {
    this.#proven = rung;
    this.#failures = 0;
  }

  /** The network is another one: what was found out counts no more. */
  forget() {
    this.#proven = undefined;
    this.#failures = 0;
  }
}
