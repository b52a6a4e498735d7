// @ts-check
/**
 * A call from joining to leaving: wires the SDK, the person's media and the page together.
 *
 * @import { LocalMedia, Problem } from "./devices.js"
 * @import { Peer, Kind } from "./sdk/peer.js"
 * @import { ClientState } from "./sdk/client.js"
 * @typedef {{ room: string, secret: string, instance: string, name: string, token?: string, password?: string, media: LocalMedia, relay: "udp" | "tcp" | "any" | null }} CallOptions
 * @typedef {{ muted: boolean, camera: boolean, screen: boolean }} SharedState
 */

import { Banner } from "./banner.js";
import { Chat } from "./chat.js";
import { byId, setIcon } from "./element.js";
import { language, t } from "./i18n/text.js";
import { listenToKeys } from "./keyboard.js";
import { invitation } from "./link.js";
import { Moderation } from "./moderation.js";
import { selectedPath, videoLimit } from "./path.js";
import { showToggles } from "./prejoin.js";
import { iceConfiguration } from "./relay.js";
import { SignalingClient } from "./sdk/client.js";
import { CLOSE_NAMES, KNOCKING } from "./sdk/protocol.js";
import { Mesh } from "./sdk/mesh.js";
import { Stage } from "./stage.js";
import { toast } from "./toast.js";
import { keepAwake } from "./wake.js";

const PATH_EVERY_MS = 2_000;
const SPEAKING_EVERY_MS = 250;
/** About -40 dB: speech, not breath. */
const SPEAKING_LEVEL = 0.01;
/** What the operator says is read in time. */
const NOTICE_MS = 20_000;
/** A mesh sends once per peer; past this many people a home uplink is full. */
const COMFORTABLE_PEERS = 5;
const CHANNEL_MESSAGE_CHARACTERS = 16_384;

export class Call extends EventTarget {
  #listening = new AbortController();
  /** @type {ReturnType<typeof setInterval>[]} */
  #timers = [];
  #everOpen = false;
  /** @type {number | undefined} */
  #code;
  #ended = false;

  /** @param {CallOptions} options */
  constructor(options) {
    super();
    this.options = options;
    this.media = options.media;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.client = new SignalingClient({
      url: `${scheme}//${location.host}/v1/rooms/${options.room}/ws`,
      secret: options.secret,
      instance: options.instance,
      name: options.name || undefined,
      token: options.token,
      password: options.password,
    });
    this.mesh = new Mesh({
      client: this.client,
      stream: this.media.stream,
      configure: (servers) => iceConfiguration(servers, options.relay),
    });
    this.moderation = new Moderation(this.client, this.#listening.signal);
    this.stage = new Stage((peer, name) => this.moderation.askToRemove(peer, name));
    this.banner = new Banner();
    this.chat = new Chat((text) => this.#sendChat(text));
  }

  /** Shows the call and connects. @returns {Promise<number>} the close code, once the call is over */
  run() {
    byId("call").hidden = false;
    document.body.dataset.view = "call";
    byId("link", HTMLInputElement).value = invitation();
    this.#listenToSdk();
    this.#listenToPage();
    this.#listenToMedia();
    listenToKeys(this.#listening.signal);
    keepAwake(this.#listening.signal);
    this.stage.own.setName(this.options.name);
    for (const kind of /** @type {Kind[]} */ (["audio", "video"])) this.#sendTrack(kind);
    this.#showOwn();
    this.#showBanner();
    this.#timers.push(setInterval(() => void this.#showPaths(), PATH_EVERY_MS));
    this.#timers.push(setInterval(() => this.#showSpeaking(), SPEAKING_EVERY_MS));
    this.client.connect();
    byId("mute").focus();
    return new Promise((resolve) => {
      this.addEventListener("over", (event) => resolve(/** @type {CustomEvent} */ (event).detail.code), { once: true });
    });
  }

  #listenToSdk() {
    this.client.addEventListener("state", (event) => this.#clientChanged(/** @type {CustomEvent} */ (event).detail));
    this.client.addEventListener("notice", (event) => toast(/** @type {CustomEvent} */ (event).detail.text, { for_ms: NOTICE_MS }));
    this.mesh.addEventListener("peer", (event) => {
      const { peer, replaced } = /** @type {CustomEvent} */ (event).detail;
      this.#showPeer(peer, replaced);
    });
    this.mesh.addEventListener("gone", (event) => {
      const { peer, reason } = /** @type {CustomEvent} */ (event).detail;
      toast(t(reason === "expired" ? "lost" : "left", { name: nameOf(peer) }));
      this.stage.remove(peer.id);
      this.#peopleChanged();
    });
    this.mesh.addEventListener("changed", (event) => this.#showConnection(/** @type {CustomEvent} */ (event).detail.peer));
  }

  #listenToPage() {
    const { signal } = this.#listening;
    const { media } = this;
    byId("mute").addEventListener("click", () => void media.setMuted(!media.muted && media.hasMicrophone), { signal });
    byId("camera").addEventListener("click", () => void media.setCamera(!media.hasCamera), { signal });
    byId("screen").addEventListener("click", () => (media.sharing ? media.stopScreen() : void media.shareScreen()), { signal });
    byId("hangup").addEventListener("click", () => this.leave(), { signal });
    byId("unblock-button").addEventListener("click", () => void this.#playAll(), { signal });
    byId("screen").hidden = navigator.mediaDevices?.getDisplayMedia === undefined;
    language.addEventListener("change", () => this.#translate(), { signal });
    window.addEventListener("pagehide", (event) => {
      // A page that goes into the back/forward cache may come back, and then resumes.
      if (!event.persisted) this.#sayBye();
    }, { signal });
    window.addEventListener("pageshow", (event) => {
      if (event.persisted) this.client.reconnect();
    }, { signal });
  }

  #listenToMedia() {
    const { signal } = this.#listening;
    this.media.addEventListener("track", (event) => this.#sendTrack(/** @type {CustomEvent} */ (event).detail.kind), { signal });
    this.media.addEventListener("change", () => this.#showOwn(), { signal });
    this.media.addEventListener("problem", (event) => {
      const { problem, kind } = /** @type {{ problem: Problem, kind?: Kind }} */ (/** @type {CustomEvent} */ (event).detail);
      toast(t(`problem_${problem}`, { device: t(kind === "audio" ? "microphone" : "camera") }));
    }, { signal });
  }

  /** @param {Kind} kind */
  #sendTrack(kind) {
    const track = this.media.outgoing(kind);
    void this.mesh.setTrack(kind, track);
    if (kind === "video") this.stage.own.setTrack("video", track);
  }

  #showOwn() {
    const { media } = this;
    showToggles(media, byId("mute"), byId("camera"));
    const screen = byId("screen");
    screen.toggleAttribute("data-active", media.sharing);
    const text = t(media.sharing ? "screen_stop" : "screen_share");
    screen.title = text;
    const label = screen.querySelector(".control-text");
    if (label !== null) label.textContent = text;
    setIcon(screen, "screen");
    const state = this.#state();
    this.stage.own.setState(state);
    this.stage.own.element.toggleAttribute("data-mirror", !state.screen && media.choice.video !== "test");
    this.mesh.say(JSON.stringify({ type: "state", ...state }));
    this.#shareUplink();
    this.stage.arrange();
  }

  /** @returns {SharedState} */
  #state() {
    const { media } = this;
    return { muted: media.muted || !media.hasMicrophone, camera: media.hasCamera, screen: media.sharing };
  }

  /**
   * @param {Peer} peer
   * @param {Peer | undefined} replaced
   */
  #showPeer(peer, replaced) {
    const tile = this.stage.tile(peer.id);
    tile.setName(nameOf(peer));
    tile.setState({ muted: false, camera: false, screen: false });
    for (const kind of /** @type {const} */ (["audio", "video"])) tile.setTrack(kind, null);
    tile.setPath({ kind: "connecting" });
    peer.addEventListener("track", (event) => {
      const { kind, track } = /** @type {CustomEvent} */ (event).detail;
      tile.setTrack(kind, track);
      if (kind === "video") tile.setState({ ...stateOf(tile), camera: true });
      void this.#play(tile);
    });
    peer.addEventListener("open", () => peer.say(JSON.stringify({ type: "state", ...this.#state() })));
    peer.addEventListener("message", (event) => this.#heard(peer, /** @type {CustomEvent} */ (event).detail));
    peer.addEventListener("state", () => {
      this.#showConnection(peer);
      void this.#showPath(peer);
      this.#shareUplink();
    });
    this.#showConnection(peer);
    if (replaced === undefined) {
      toast(t("joined", { name: nameOf(peer) }));
      if (this.mesh.peers.size === COMFORTABLE_PEERS + 1) toast(t("crowded"));
    }
    this.#peopleChanged();
  }

  /**
   * A message on the data channel. Whatever a peer sends is bounded and checked before it is believed.
   * @param {Peer} peer
   * @param {unknown} data
   */
  #heard(peer, data) {
    if (typeof data !== "string" || data.length > CHANNEL_MESSAGE_CHARACTERS) return;
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    if (message?.type === "bye") this.mesh.remove(peer);
    if (message?.type === "chat" && typeof message.text === "string") {
      const seen = this.chat.receive(nameOf(peer), message.text);
      if (!seen) toast(t("chat_said", { name: nameOf(peer), text: message.text.slice(0, 120) }));
    }
    if (message?.type === "state") {
      this.stage.tile(peer.id).setState({ muted: message.muted === true, camera: message.camera === true, screen: message.screen === true });
      this.stage.arrange();
    }
  }

  /** @param {string} text */
  #sendChat(text) {
    if (this.mesh.peers.size === 0) return false;
    this.mesh.say(JSON.stringify({ type: "chat", text }));
    return true;
  }

  /** @param {Peer} peer */
  #showConnection(peer) {
    const tile = this.stage.tile(peer.id);
    if (tile.name !== nameOf(peer)) tile.setName(nameOf(peer));
    const { connectionState } = peer.connection;
    if (connectionState === "connected") tile.setStatus(undefined);
    else if (peer.presence !== "here") tile.setStatus("state_away");
    else tile.setStatus(peer.wasConnected ? "state_restarting" : "state_connecting");
    this.#showBanner();
  }

  /** @param {{ state: ClientState, code?: number }} change */
  #clientChanged({ state, code }) {
    if (code !== undefined) this.#code = code;
    if (state === "open") {
      this.#everOpen = true;
      this.#code = undefined;
    }
    if (state === "closed") this.#end(code ?? 1000);
    else this.#showBanner();
  }

  #showBanner() {
    const peers = [...this.mesh.peers.values()];
    this.stage.wait(!this.#everOpen && this.#code === KNOCKING);
    const lost = peers.filter((peer) => peer.wasConnected && ["disconnected", "failed"].includes(peer.connection.connectionState));
    this.banner.show({
      signaling: this.client.state,
      everOpen: this.#everOpen,
      code: this.#code,
      peers: peers.length,
      lost: lost.map(nameOf),
    });
  }

  #peopleChanged() {
    const people = byId("people");
    people.hidden = false;
    people.textContent = t("people", { n: this.mesh.peers.size + 1 });
    this.#showBanner();
    this.#shareUplink();
  }

  /** In a mesh every peer gets its own encoding of our picture, so more people means less for each. */
  #shareUplink() {
    const limit = videoLimit(this.mesh.peers.size, this.media.sharing);
    for (const peer of this.mesh.peers.values()) void peer.limitVideo(limit);
  }

  async #showPaths() {
    await Promise.all([...this.mesh.peers.values()].map((peer) => this.#showPath(peer)));
  }

  /** @param {Peer} peer */
  async #showPath(peer) {
    const path = await selectedPath(peer.connection).catch(() => undefined);
    if (path !== undefined && this.mesh.peers.get(peer.id) === peer) this.stage.tile(peer.id).setPath(path);
  }

  #showSpeaking() {
    for (const peer of this.mesh.peers.values()) {
      const levels = peer.connection.getReceivers().filter(({ track }) => track.kind === "audio").flatMap((receiver) => receiver.getSynchronizationSources());
      const tile = this.stage.tile(peer.id);
      tile.element.toggleAttribute("data-speaking", tile.muted.hidden && levels.some(({ audioLevel }) => (audioLevel ?? 0) > SPEAKING_LEVEL));
    }
  }

  /** @param {import("./tile.js").Tile} tile */
  async #play(tile) {
    if (!(await tile.play())) byId("unblock").hidden = false;
  }

  async #playAll() {
    const played = await Promise.all([...this.stage.tiles.values()].map((tile) => tile.play()));
    byId("unblock").hidden = played.every(Boolean);
  }

  #translate() {
    this.stage.translate();
    this.#showOwn();
    this.#peopleChanged();
  }

  leave() {
    this.#sayBye();
    this.#end(1000);
  }

  /** Both ways at once: whichever still works tells the others at once. */
  #sayBye() {
    this.mesh.say(JSON.stringify({ type: "bye" }));
    this.client.leave();
  }

  /** @param {number} code */
  #end(code) {
    if (this.#ended) return;
    this.#ended = true;
    if (code !== 1000) console.info("call ended:", CLOSE_NAMES[code] ?? code);
    this.#listening.abort();
    for (const timer of this.#timers) clearInterval(timer);
    this.mesh.close();
    this.stage.close();
    this.chat.close();
    for (const dialog of document.querySelectorAll("dialog")) dialog.close();
    byId("call").hidden = true;
    byId("people").hidden = true;
    byId("unblock").hidden = true;
    this.dispatchEvent(new CustomEvent("over", { detail: { code } }));
  }
}

/** @param {Peer} peer */
function nameOf(peer) {
  return peer.name?.trim() || t("guest", { id: peer.id.slice(0, 4) });
}

/**
 * @param {import("./tile.js").Tile} tile
 * @returns {SharedState}
 */
function stateOf(tile) {
  return { muted: !tile.muted.hidden, camera: !tile.element.hasAttribute("data-off"), screen: tile.screen };
}
