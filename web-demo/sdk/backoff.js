// @ts-check
/**
 * How long to wait before the next attempt. Every wait is drawn at random from a window that doubles,
 * so that thousands of clients cut at the same instant do not come back at the same instant.
 */

export class Backoff {
  #attempt = 0;

  /**
   * @param {object} [options]
   * @param {number} [options.first_ms] upper end of the first window
   * @param {number} [options.cap_ms] upper end of the last window
   * @param {() => number} [options.random] uniform in [0, 1)
   */
  constructor({ first_ms = 500, cap_ms = 8_000, random = Math.random } = {}) {
    this.first_ms = first_ms;
    this.cap_ms = cap_ms;
    this.random = random;
  }

  /**
   * The next wait in milliseconds.
   * @param {number} [floor_ms] what the server asked for; the random part comes on top of it
   */
  next(floor_ms = 0) {
    const window_ms = Math.min(this.cap_ms, this.first_ms * 2 ** this.#attempt);
    this.#attempt += 1;
    return Math.round(floor_ms + window_ms * this.random());
  }

  /** Forgets the failures: the connection stood. */
  reset() {
    this.#attempt = 0;
  }
}
