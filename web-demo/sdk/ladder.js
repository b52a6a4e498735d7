// @ts-check
/**
 * Which transport the next connection takes. The rungs are numbered from the best (0, a WebSocket) down.
 *
 * Nobody tells a page what the network lets through; it finds out by trying. As long as no rung has brought a `welcome`, each
 * is tried at once after the one above, and how long each is waited for follows from how fast the network has shown to be.
 * Later a failure is rather the server's or the network's than the transport's: the rung that worked is tried again first,
 * and others only after that.
 */

/** A handshake and its welcome take four round trips at most. Who needs longer goes one rung down, and up again later. */
const PROBE_MS = 2_000;
/** No network is so fast that a busy server or page might not take that long. */
const PROBE_LEAST_MS = 500;
/** A handshake on a connection that stood may have been one round trip; on a fresh one it takes up to four. */
const HANDSHAKES = 4;
/** For a rung that has worked, on a server that may be busy with everybody else's return. */
const PROVEN_MS = 5_000;
/** For the last one: there is nothing to hurry to. */
const LAST_MS = 10_000;

/** On a lower rung, the first wait before a better one is tried; each further one is twice as long. */
const CLIMB_AFTER_MS = 30_000;
const CLIMB_CAP_MS = 600_000;

export class Ladder {
  /** The rung that brought the last welcome. @type {number | undefined} */
  #proven;
  /** Attempts without a welcome since. */
  #failures = 0;
  /** How long the slowest handshake took. @type {number | undefined} */
  #handshake_ms;
  #dialed_at = 0;

  /**
   * @param {number} rungs how many there are
   * @param {number} [handshake_ms] how long one takes, if something else has shown it
   */
  constructor(rungs, handshake_ms) {
    this.rungs = rungs;
    this.#handshake_ms = handshake_ms;
  }

  /** The rung of the next attempt. */
  get rung() {
    if (this.#proven === undefined) return this.#failures % this.rungs;
    return (this.#proven + Math.max(0, this.#failures - 1)) % this.rungs;
  }

  /** How long that attempt may take until its handshake is answered, and after that until its welcome. */
  get deadline_ms() {
    if (this.rung === this.rungs - 1) return LAST_MS;
    if (this.#proven !== undefined) return PROVEN_MS;
    if (this.#handshake_ms === undefined) return PROBE_MS;
    return Math.min(PROBE_MS, Math.max(PROBE_LEAST_MS, HANDSHAKES * this.#handshake_ms));
  }

  /** An attempt begins. @param {number} now */
  dialed(now) {
    this.#dialed_at = now;
  }

  /** Its handshake succeeded. One that fails may have reached nobody, and says nothing of how long they take. @param {number} now */
  answered(now) {
    this.#handshake_ms = Math.max(now - this.#dialed_at, this.#handshake_ms ?? 0);
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
    this.#handshake_ms = undefined;
  }
}

/**
 * How long to stay on a lower rung before a better one is tried.
 * @param {number} climbs how many were
 */
export function climbAfter(climbs) {
  return Math.min(CLIMB_CAP_MS, CLIMB_AFTER_MS * 2 ** climbs);
}

/**
 * How long the page's own server took to answer it, which says something about the same server's next answer.
 * @param {string} url ws(s)://host/...
 * @returns {number | undefined}
 */
export function pageHandshake(url) {
  if (typeof location === "undefined" || new URL(url).host !== location.host) return undefined;
  const [page] = /** @type {PerformanceNavigationTiming[]} */ (performance.getEntriesByType("navigation"));
  const took_ms = page === undefined ? 0 : page.responseStart - page.fetchStart;
  return took_ms > 0 ? took_ms : undefined;
}
