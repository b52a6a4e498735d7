// @ts-check
/**
 * One line that tells what is broken and what still works. "The server is gone" and "your media is gone" are two
 * things: a call outlives its signaling server.
 *
 * @import { ClientState } from "./sdk/client.js"
 */

import { byId } from "./element.js";
import { t } from "./i18n/text.js";

/** A reconnect that takes less than this is nobody's business. */
const PATIENCE_MS = 700;

/**
 * @param {object} facts
 * @param {ClientState} facts.signaling
 * @param {boolean} facts.everOpen whether the server was ever reached
 * @param {number} [facts.code] why the connection closed
 * @param {number} facts.peers how many are in the call
 * @param {string[]} facts.lost names of the peers whose media broke
 * @returns {{ state: "ok" | "signaling-lost" | "media-lost", text: string }}
 */
export function bannerFor({ signaling, everOpen, code, peers, lost }) {
  const signalingLost = signaling === "waiting" || signaling === "connecting";
  const names = lost.join(", ");
  if (lost.length > 0) return { state: "media-lost", text: t(signalingLost ? "banner_both" : "banner_media", { names }) };
  if (!signalingLost) return { state: "ok", text: "" };
  // Who is not in yet sees it in the room's place.
  if (code === 4104) return everOpen ? { state: "signaling-lost", text: t("banner_knocking") } : { state: "ok", text: "" };
  if (code === 4102) return { state: "signaling-lost", text: t("banner_full") };
  if (!everOpen && signaling === "connecting") return { state: "signaling-lost", text: t("banner_connecting") };
  return { state: "signaling-lost", text: t(peers > 0 ? "banner_signaling" : "banner_signaling_alone") };
}

export class Banner {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #wanted = { state: "ok", text: "" };

  /** @param {Parameters<typeof bannerFor>[0]} facts */
  show(facts) {
    const before = this.#wanted;
    this.#wanted = bannerFor(facts);
    if (this.#wanted.state === "ok") {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#put();
    } else if (before.state !== "ok" && this.#timer === undefined) {
      this.#put();
    } else if (this.#timer === undefined) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.#put();
      }, PATIENCE_MS);
    }
  }

  #put() {
    const banner = byId("banner");
    banner.dataset.state = this.#wanted.state;
    const text = byId("banner-text");
    if (text.textContent !== this.#wanted.text) text.textContent = this.#wanted.text;
  }
}
