// @ts-check
/**
 * The sequenced frames of the server's side: which is the next, and when the server is to be told how far we are. It knows no socket.
 *
 * @import { Clock } from "./clock.js"
 */

import { Timer } from "./clock.js";

/** The contract asks for an acknowledgement after at most 1 s or 16 frames. */
const ACK_AFTER_MS = 800;
const ACK_AFTER_FRAMES = 16;

export class Incoming {
  /** Highest seq received in order. */
  received = 0;
  /** Frames received since the server was last told. */
  #unacknowledged = 0;

  /**
   * @param {Clock} clock
   * @param {() => void} acknowledge called when it is time to tell the server
   */
  constructor(clock, acknowledge) {
    this.timer = new Timer(clock, acknowledge);
    this.acknowledge = acknowledge;
  }

  /** Another session: its sequence starts anew. */
  begin() {
    this.received = 0;
  }

  /** The next frame came. */
  took() {
    this.received += 1;
    this.#unacknowledged += 1;
    if (this.#unacknowledged >= ACK_AFTER_FRAMES) this.acknowledge();
    else if (!this.timer.armed) this.timer.arm(ACK_AFTER_MS);
  }

  /** The server was told, or hears it from the next hello. */
  told() {
    this.timer.cancel();
    this.#unacknowledged = 0;
  }
}
