// @ts-check
/**
 * The sequenced frames of our side: kept until the server acknowledges them, over however many connections, and sent no faster
 * than the server takes them. It knows no socket and no clock.
 *
 * @import { Welcome } from "./protocol.js"
 * @typedef {Welcome["limits"]} Limits
 * @typedef {{ seq: number, type: string, body: object, bytes: number }} Kept
 */

/** Share of the server's rate limit that frames may use; acks and pongs count there as well. */
const RATE_SHARE = 0.8;
/** What stands around a body, at most. */
const ENVELOPE_BYTES = 128;

export class Outgoing {
  #sent = 0;
  /** Not acknowledged, oldest first. @type {Kept[]} */
  #kept = [];
  /** How many of them went out over the present connection. */
  #flushed = 0;
  #tokens = 0;
  #tokens_at = 0;

  /** Another session: both sequences start anew. */
  begin() {
    this.#sent = 0;
    this.forget();
  }

  /** Drops what was not acknowledged. */
  forget() {
    this.#kept = [];
    this.#flushed = 0;
  }

  /** A new connection: everything that is kept goes out again. */
  rewind() {
    this.#flushed = 0;
  }

  /**
   * The server's bucket outlives connections, so this is for the first one; later only time refills ours.
   * @param {number} now
   * @param {Limits} limits
   */
  fill(now, limits) {
    this.#tokens = burst(limits);
    this.#tokens_at = now;
  }

  /**
   * @param {string} type
   * @param {object} body
   * @param {Limits} limits
   * @returns {boolean} false if more is outstanding now than may be kept
   */
  add(type, body, limits) {
    const bytes = new TextEncoder().encode(JSON.stringify(body)).length;
    if (bytes + ENVELOPE_BYTES > limits.message_bytes) throw new RangeError(`a ${type} of ${bytes} bytes is more than the server takes`);
    this.#sent += 1;
    this.#kept.push({ seq: this.#sent, type, body, bytes });
    const kept_bytes = this.#kept.reduce((sum, kept) => sum + kept.bytes, 0);
    return this.#kept.length <= limits.replay_messages && kept_bytes <= limits.replay_bytes;
  }

  /** @param {number} ack */
  acknowledged(ack) {
    while (this.#kept.length > 0 && this.#kept[0].seq <= ack) {
      this.#kept.shift();
      this.#flushed = Math.max(0, this.#flushed - 1);
    }
  }

  /**
   * What may go out now.
   * @param {number} now
   * @param {Limits} limits
   * @returns {Generator<Kept>}
   */
  *due(now, limits) {
    this.#tokens = Math.min(burst(limits), this.#tokens + ((now - this.#tokens_at) / 1000) * rate(limits));
    this.#tokens_at = now;
    while (this.#flushed < this.#kept.length && this.#tokens >= 1) {
      this.#tokens -= 1;
      this.#flushed += 1;
      yield this.#kept[this.#flushed - 1];
    }
  }

  /**
   * After how long to ask again what is due, if anything has to wait.
   * @param {Limits} limits
   * @returns {number | undefined}
   */
  wait_ms(limits) {
    return this.#flushed < this.#kept.length ? Math.ceil(1000 / rate(limits)) : undefined;
  }
}

/** @param {Limits} limits */
function rate({ messages_per_second }) {
  return messages_per_second * RATE_SHARE;
}

/**
 * How many frames may go out at once after a rest.
 * @param {Limits} limits
 */
function burst({ message_burst, messages_per_second }) {
  return (message_burst ?? messages_per_second) * RATE_SHARE;
}
