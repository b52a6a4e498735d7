// @ts-check
/**
 * One person's place in the grid: picture or initials, name, muted sign, and for others how their media travels.
 *
 * @import { Path } from "./path.js"
 * @import { TextKey } from "./i18n/en.js"
 */

import { icon, make } from "./element.js";
import { setLabel, t } from "./i18n/text.js";
import { speaker } from "./pickers.js";

export class Tile {
  stream = new MediaStream();
  name = "";
  screen = false;
  /** @type {Path} */
  path = { kind: "connecting" };
  /** @type {TextKey | undefined} */
  #status;
  #listening = new AbortController();

  /**
   * @param {object} options
   * @param {string} [options.peer] absent on our own tile
   * @param {() => void} options.onPin
   * @param {() => void} [options.onRemove] asks whether this person is to be removed
   */
  constructor({ peer, onPin, onRemove }) {
    this.element = make("article", "tile");
    this.video = make("video");
    this.avatar = make("div", "avatar");
    this.note = make("p", "tile-note");
    this.label = make("span", "tile-name");
    this.muted = make("span", "tile-muted", icon("mic-off"));
    this.badge = make("span", "badge");
    this.pin = make("button", "tile-pin", icon("pin"));
    // Shown to those who may.
    this.kick = make("button", "tile-pin tile-remove", icon("remove"));
    this.#assemble(peer);
    this.pin.addEventListener("click", onPin);
    if (peer === undefined) return;
    if (onRemove !== undefined) this.kick.addEventListener("click", onRemove);
    speaker.addEventListener("change", () => this.#useSpeaker(), { signal: this.#listening.signal });
    this.#useSpeaker();
    this.setPath({ kind: "connecting" });
  }

  /** @param {string | undefined} peer */
  #assemble(peer) {
    this.video.autoplay = true;
    this.video.playsInline = true;
    this.video.muted = peer === undefined;
    this.video.srcObject = this.stream;
    this.pin.type = this.kick.type = "button";
    this.muted.hidden = true;
    this.muted.setAttribute("role", "img");
    this.avatar.setAttribute("aria-hidden", "true");
    const bar = make("footer", "tile-bar", make("span", "tile-who", this.muted, this.label));
    if (peer === undefined) {
      this.element.dataset.self = "";
    } else {
      this.element.dataset.peer = peer;
      bar.append(this.badge);
    }
    this.element.append(this.avatar, this.video, this.note, bar, this.pin);
    if (peer !== undefined) this.element.append(this.kick);
  }

  /**
   * Shows this track instead of the earlier one of its kind.
   * @param {"audio" | "video"} kind
   * @param {MediaStreamTrack | null} track
   */
  setTrack(kind, track) {
    for (const old of this.stream.getTracks()) {
      if (old.kind === kind && old !== track) this.stream.removeTrack(old);
    }
    if (track !== null && !this.stream.getTracks().includes(track)) this.stream.addTrack(track);
  }

  /** @returns {Promise<boolean>} false: the browser wants a click first */
  async play() {
    try {
      await this.video.play();
      return true;
    } catch (error) {
      return !(error instanceof DOMException && error.name === "NotAllowedError");
    }
  }

  /** @param {string} name */
  setName(name) {
    this.name = name;
    this.avatar.textContent = initials(name);
    // Each name keeps its colour, whoever looks.
    this.element.dataset.hue = String([...name].reduce((sum, letter) => sum + (letter.codePointAt(0) ?? 0), 0) % 6);
    this.translate();
  }

  /** @param {{ muted: boolean, camera: boolean, screen: boolean }} state */
  setState({ muted, camera, screen }) {
    this.muted.hidden = !muted;
    this.screen = screen;
    this.element.toggleAttribute("data-off", !camera && !screen);
    this.element.toggleAttribute("data-screen", screen);
    this.translate();
  }

  /** @param {Path} path */
  setPath(path) {
    this.path = path;
    this.element.dataset.path = path.kind;
    const text = t(`path_${path.kind}`);
    this.badge.textContent = path.rtt_ms === undefined ? text : `${text} · ${t("rtt", { ms: path.rtt_ms })}`;
    const facts = { local: path.local ?? "?", remote: path.remote ?? "?", protocol: path.protocol ?? "?" };
    this.badge.title = t(`path_title_${path.kind}`, facts);
  }

  /** What is wrong with this person's connection, if anything. @param {TextKey | undefined} key */
  setStatus(key) {
    this.#status = key;
    this.note.textContent = key === undefined ? "" : t(key);
    this.element.toggleAttribute("data-waiting", key !== undefined);
  }

  /** @param {boolean} pinned */
  setPinned(pinned) {
    this.element.toggleAttribute("data-pinned", pinned);
    this.translate();
  }

  /** Writes every text anew. */
  translate() {
    const own = this.element.dataset.self !== undefined;
    const shown = own ? (this.name === "" ? t("you") : t("you_named", { name: this.name })) : this.screen ? t("remote_screen", { name: this.name }) : this.name;
    this.label.textContent = shown;
    this.element.setAttribute("aria-label", shown);
    this.muted.setAttribute("aria-label", t("remote_muted", { name: shown }));
    const pinned = this.element.hasAttribute("data-pinned");
    if (pinned) {
      setLabel(this.pin, "unpin");
    } else {
      this.pin.title = t("pin", { name: shown });
      this.pin.setAttribute("aria-label", this.pin.title);
      delete this.pin.dataset.tLabel;
      delete this.pin.dataset.tTitle;
    }
    this.kick.title = t("remove", { name: shown });
    this.kick.setAttribute("aria-label", this.kick.title);
    if (!own) this.setPath(this.path);
    this.setStatus(this.#status);
  }

  remove() {
    this.#listening.abort();
    this.video.srcObject = null;
    this.element.remove();
  }

  #useSpeaker() {
    if ("setSinkId" in this.video) this.video.setSinkId(speaker.id).catch(() => undefined);
  }
}

/** @param {string} name */
function initials(name) {
  const words = name.trim().split(/\s+/).filter((word) => word !== "");
  // One Hangul or Han character says as much as two Latin initials.
  const letters = /[\u3040-\u9fff\uac00-\ud7af]/.test(words[0] ?? "") ? words.slice(0, 1) : words.slice(0, 2);
  return letters.map((word) => [...word][0]).join("").toUpperCase() || "·";
}
