// @ts-check
/**
 * Moves a connection that runs over a relay of ours to a fresh allocation before its credentials end.
 *
 * A relay may end an allocation when the credentials end that it was made with, and a browser gives it no others: only an ICE
 * restart gathers with fresh ones. Media goes on over the old allocation until the new one stands. It is done as late as is safe:
 * a restart by either side renews both, so most of the time the other's comes first and ours is not needed. What flows directly, or
 * over the other side's relay, is left alone.
 *
 * @import { Clock } from "./clock.js"
 */

import { Timer } from "./clock.js";
import { usesOwnRelay } from "./pair.js";

/** Firefox gives an allocation up that has 10 s left; the relay counts in whole seconds, and so does whoever made the credentials. */
const LEAST_MS = 13_000;
/** Of a longer life a part is left, since a machine may be asleep at the time, but no more than this. */
const MOST_MS = 300_000;
const SHARE = 1 / 4;
/** A connection that is being mended may be so with the old credentials. */
const AGAIN_MS = 1_000;

export class Renewal {
  /** When the credentials end that the next gathering will use. */
  #fresh = Infinity;
  /** When those end that the present candidates were gathered with, and by when another gathering is due. */
  #ends = Infinity;
  #due = Infinity;
  /** @type {string | undefined} */
  #generation;

  /**
   * @param {object} options
   * @param {Pick<RTCPeerConnection, "connectionState" | "getStats">} options.connection
   * @param {() => void} options.restart restarts ICE
   * @param {Clock} options.clock
   */
  constructor({ connection, restart, clock }) {
    this.connection = connection;
    this.restart = restart;
    this.clock = clock;
    this.timer = new Timer(clock, () => void this.#look());
  }

  /** @param {number} ends when the credentials end that the connection was given, by the clock */
  configured(ends) {
    this.#fresh = ends;
    this.#arm();
  }

  /** Candidates are gathered for this generation, if it is a new one. @param {string | undefined} ufrag */
  gathered(ufrag) {
    if (ufrag === this.#generation) return;
    this.#generation = ufrag;
    this.#ends = this.#fresh;
    const rest_ms = this.#ends - this.clock.now();
    this.#due = this.#ends - Math.max(LEAST_MS, Math.min(MOST_MS, rest_ms * SHARE));
    this.#arm();
  }

  cancel() {
    this.timer.cancel();
  }

  /** Without fresher credentials there is nothing to wait for. */
  #arm() {
    if (this.#fresh > this.#ends) this.timer.arm(Math.max(0, this.#due - this.clock.now()));
    else this.timer.cancel();
  }

  async #look() {
    const generation = this.#generation;
    if (this.connection.connectionState !== "connected") {
      this.timer.arm(AGAIN_MS);
      return;
    }
    const relayed = await this.connection.getStats().then(usesOwnRelay, () => false);
    if (relayed && generation === this.#generation) this.restart();
  }
}
