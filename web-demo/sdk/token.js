// @ts-check
/**
 * The token that shows the server that we may enter (signaling/PROTOCOL.md, "Who may enter"), and when another is due.
 *
 * It is a text, or a function that gives one: that is called before the first `hello`, some time before the present token ends,
 * and when the server says that it has ended. A token is kept in memory only.
 *
 * @import { Clock } from "./clock.js"
 * @typedef {string | (() => string | Promise<string>)} TokenOption
 */

import { Timer } from "./clock.js";

/** The share of a token's life that is left when the next one is fetched, and the most of it. */
const REST_SHARE = 0.2;
const REST_MOST_MS = 60_000;
/** Timers of browsers count no further (2^31 - 1); looking again after that long costs nothing. */
const TIMER_MOST_MS = 2_000_000_000;
/** A token that could not be had, or not be verified, is fetched again. */
const AGAIN_MS = 5_000;

export class TokenSource {
  /** The present token. @type {string | undefined} */
  token;

  /** @type {(() => string | Promise<string>) | undefined} */
  #fetch;
  /** Counts what was fetched; an answer to an earlier call is nobody's. */
  #calls = 0;

  /**
   * @param {TokenOption | undefined} option
   * @param {Clock} clock
   * @param {() => void} due called when a further token should be fetched
   */
  constructor(option, clock, due) {
    if (typeof option === "function") this.#fetch = option;
    else this.token = option;
    this.clock = clock;
    this.timer = new Timer(clock, () => this.#look());
    this.due = due;
    this.due_at = Infinity;
  }

  /** Whether there is something to be fetched before a hello can be said. */
  get missing() {
    return this.token === undefined && this.#fetch !== undefined;
  }

  /** Whether there may be a better token than the present one. */
  get renewable() {
    return this.#fetch !== undefined;
  }

  /**
   * Fetches a token.
   * @returns {Promise<boolean>} whether it is the present one now: a later call may have been faster
   */
  async fetch() {
    this.#calls += 1;
    const call = this.#calls;
    const token = await this.#fetch?.();
    if (call !== this.#calls || token === undefined) return false;
    this.token = token;
    return true;
  }

  /** The present token is worth nothing. */
  forget() {
    this.timer.cancel();
    if (this.renewable) this.token = undefined;
  }

  /**
   * The server said how long the present token counts.
   * @param {number | undefined} expires_in_ms
   */
  counts(expires_in_ms) {
    this.timer.cancel();
    if (expires_in_ms === undefined || !this.renewable) return;
    this.due_at = this.clock.now() + expires_in_ms - Math.min(REST_MOST_MS, expires_in_ms * REST_SHARE);
    this.#look();
  }

  /** Another one is wanted soon. */
  again() {
    if (!this.renewable) return;
    this.due_at = this.clock.now() + AGAIN_MS;
    this.#look();
  }

  #look() {
    const rest_ms = this.due_at - this.clock.now();
    if (rest_ms > 0) this.timer.arm(Math.min(rest_ms, TIMER_MOST_MS));
    else this.due();
  }
}
