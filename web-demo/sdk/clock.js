// @ts-check
/**
 * Time as the SDK sees it. The tests hand in one that they turn by hand.
 *
 * @typedef {{
 *   now(): number,
 *   setTimeout(action: () => void, after_ms: number): unknown,
 *   clearTimeout(timer: unknown): void,
 * }} Clock
 */

/** @type {Clock} */
export const systemClock = {
  now: () => performance.now(),
  setTimeout: (action, after_ms) => globalThis.setTimeout(action, after_ms),
  clearTimeout: (timer) => globalThis.clearTimeout(/** @type {number} */ (timer)),
};

/** One timer that can be armed again and again; arming it anew forgets the earlier one. */
export class Timer {
  /** @type {unknown} */
  #timer;

  /**
   * @param {Clock} clock
   * @param {() => void} action
   */
  constructor(clock, action) {
    this.clock = clock;
    this.action = action;
  }

  /** True while it is armed. */
  get armed() {
    return this.#timer !== undefined;
  }

  /** @param {number} after_ms */
  arm(after_ms) {
    this.cancel();
    this.#timer = this.clock.setTimeout(() => {
      this.#timer = undefined;
      this.action();
    }, after_ms);
  }

  cancel() {
    if (this.#timer === undefined) return;
    this.clock.clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
