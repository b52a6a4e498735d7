// @ts-check
/**
 * Everybody in the room, each over a connection of their own: keeps one Peer per peer id in step with what the
 * signaling session says about the room.
 *
 * Rules: who was here first offers. A peer that shows another `instance` is a new page and starts anew. After a
 * renewed session only unsettled negotiations are repeated. A peer that said `bye` is removed although media may
 * still flow. One that only the server lost (it is away, its session expired, or a fresh snapshot does not name it
 * because it is not back yet) stays as long as its media flows.
 *
 * Events: `peer` { peer, replaced } a Peer to show, which takes the place of `replaced` (same id) if there was one;
 * `gone` { peer, reason }; `changed` { peer } presence or name.
 *
 * @import { SignalingClient } from "./client.js"
 * @import { Clock } from "./clock.js"
 * @import { IceServer, PeerEntry, PeerJoined, PeerLeft, PeerChanged, Signal, Welcome } from "./protocol.js"
 * @import { Kind } from "./peer.js"
 */

import { systemClock } from "./clock.js";
import { Peer } from "./peer.js";

/** One report per TURN url and minute is enough for an operator. */
const REPORT_EVERY_MS = 60_000;
/** STUN error codes, RFC 8489 section 14.8. The browser's own 701, "cannot reach", says as much about this network. */
const ANSWERED = { from: 300, to: 699 };
/** How long to doubt before a server has named its grace period. */
const DOUBT_MS = 30_000;

export class Mesh extends EventTarget {
  /** @type {Map<string, Peer>} */
  peers = new Map();
  /** @type {Map<Kind, MediaStreamTrack>} */
  #tracks = new Map();
  /** @type {Map<string, number>} */
  #reported = new Map();
  /** When our present TURN credentials end, by the clock. */
  #credentials_end = Infinity;

  /**
   * @param {object} options
   * @param {SignalingClient} options.client not yet connected
   * @param {MediaStream} options.stream the id under which our tracks travel
   * @param {(servers: IceServer[]) => RTCConfiguration} [options.configure]
   * @param {(configuration: RTCConfiguration) => RTCPeerConnection} [options.createConnection]
   * @param {Clock} [options.clock]
   */
  constructor({ client, stream, configure = (iceServers) => ({ iceServers }), createConnection, clock = systemClock }) {
    super();
    this.client = client;
    this.stream = stream;
    this.configure = configure;
    this.createConnection = createConnection;
    this.clock = clock;
    /** @type {[string, (detail: any) => void][]} */
    const listeners = [
      ["welcome", (frame) => this.#welcomed(frame)],
      ["peer_joined", (frame) => this.#joined(frame)],
      ["peer_changed", (frame) => this.#changed(frame)],
      ["peer_left", (frame) => this.#left(frame)],
      ["signal", (frame) => this.#signalled(frame)],
      ["ice", (frame) => this.#reconfigure(frame)],
    ];
    for (const [type, listener] of listeners) {
      client.addEventListener(type, (event) => listener(/** @type {CustomEvent} */ (event).detail));
    }
  }

  /**
   * What everybody is sent from now on; null stops sending.
   * @param {Kind} kind
   * @param {MediaStreamTrack | null} track
   */
  async setTrack(kind, track) {
    if (track === null) this.#tracks.delete(kind);
    else this.#tracks.set(kind, track);
    await Promise.all([...this.peers.values()].map((peer) => peer.setTrack(kind, track, this.stream)));
  }

  /** @param {string} text to everybody, over the data channels */
  say(text) {
    for (const peer of this.peers.values()) peer.say(text);
  }

  /** Removes a peer that said goodbye by another way than the server. @param {Peer} peer */
  remove(peer) {
    this.#remove(peer, "bye");
  }

  close() {
    for (const peer of this.peers.values()) peer.close();
    this.peers.clear();
  }

  /** @param {Welcome} frame */
  #welcomed(frame) {
    const entries = new Map(frame.room.peers.map((entry) => [entry.peer, entry]));
    const resumed = frame.outcome === "resumed";
    // A welcome of any kind brings fresh credentials.
    this.#reconfigure(frame.ice);
    for (const entry of entries.values()) {
      const peer = this.peers.get(entry.peer);
      if (peer === undefined || peer.instance !== entry.instance) {
        // After `resumed` the replay tells of newcomers, and with it that the first offer is ours.
        if (!resumed) this.#add(entry, false);
        continue;
      }
      this.#present(peer, entry.state, entry.name);
      if (!resumed) peer.settle();
    }
    if (resumed) return;
    for (const peer of this.peers.values()) {
      if (!entries.has(peer.id)) this.#doubt(peer, frame.grace_ms);
    }
  }

  /** @param {PeerJoined} frame */
  #joined(frame) {
    const peer = this.peers.get(frame.peer);
    if (peer === undefined || peer.instance !== frame.instance) {
      this.#add({ ...frame, state: "here" }, true);
      return;
    }
    this.#present(peer, "here", frame.name);
    peer.settle();
  }

  /** @param {PeerChanged} frame */
  #changed(frame) {
    const peer = this.peers.get(frame.peer);
    if (peer !== undefined) this.#present(peer, frame.state, peer.name);
  }

  /** @param {PeerLeft} frame */
  #left(frame) {
    const peer = this.peers.get(frame.peer);
    if (peer === undefined) return;
    const gone = ["bye", "kicked", "token_expired", "replaced"].includes(frame.reason);
    if (gone || peer.connection.connectionState !== "connected") this.#remove(peer, frame.reason);
    else this.#doubt(peer, this.client.welcome?.grace_ms ?? DOUBT_MS);
  }

  /** @param {Signal} frame */
  #signalled(frame) {
    void this.peers.get(frame.from)?.receive(frame);
  }

  /**
   * @param {PeerEntry} entry
   * @param {boolean} offers
   */
  #add(entry, offers) {
    const replaced = this.peers.get(entry.peer);
    replaced?.close();
    const peer = new Peer({
      id: entry.peer,
      instance: entry.instance,
      name: entry.name,
      polite: entry.polite,
      offers,
      send: (body) => this.client.signal(entry.peer, body),
      configuration: this.configure(this.client.ice),
      credentials_end: this.#credentials_end,
      createConnection: this.createConnection,
      clock: this.clock,
    });
    peer.presence = entry.state;
    this.peers.set(peer.id, peer);
    for (const [kind, track] of this.#tracks) void peer.setTrack(kind, track, this.stream);
    peer.addEventListener("begin_anew", (event) => {
      const { signal } = /** @type {CustomEvent} */ (event).detail;
      const anew = this.#add({ peer: peer.id, instance: peer.instance, name: peer.name, polite: peer.polite, state: "here" }, signal === undefined);
      if (signal !== undefined) void anew.receive(signal);
    });
    peer.addEventListener("ice_error", (event) => this.#iceError(/** @type {CustomEvent} */ (event).detail));
    this.#emit("peer", { peer, replaced });
    return peer;
  }

  /**
   * @param {Peer} peer
   * @param {"here" | "away"} presence
   * @param {string | undefined} name
   */
  #present(peer, presence, name) {
    if (peer.presence === presence && peer.name === name) return;
    peer.presence = presence;
    peer.name = name;
    this.#emit("changed", { peer });
  }

  /**
   * The room does not know this peer (any more). It may be on its way back, so it stays for the grace period, and
   * longer while its media flows.
   * @param {Peer} peer
   * @param {number} grace_ms
   */
  #doubt(peer, grace_ms) {
    peer.presence = "unconfirmed";
    this.#emit("changed", { peer });
    const look = () => {
      if (this.peers.get(peer.id) !== peer || peer.presence !== "unconfirmed") return;
      if (peer.connection.connectionState === "connected") this.clock.setTimeout(look, grace_ms);
      else this.#remove(peer, "expired");
    };
    this.clock.setTimeout(look, grace_ms);
  }

  /**
   * @param {Peer} peer
   * @param {string} reason
   */
  #remove(peer, reason) {
    if (this.peers.get(peer.id) !== peer) return;
    this.peers.delete(peer.id);
    peer.close();
    this.#emit("gone", { peer, reason });
  }

  /** Fresh TURN credentials are used from the next gathering on. @param {{ expires_in_ms?: number }} ice */
  #reconfigure({ expires_in_ms = Infinity }) {
    this.#credentials_end = this.clock.now() + expires_in_ms;
    const configuration = this.configure(this.client.ice);
    for (const peer of this.peers.values()) peer.configure(configuration, this.#credentials_end);
  }

  /** @param {{ url: string, code: number }} error */
  #iceError({ url, code }) {
    if (code < ANSWERED.from || code > ANSWERED.to) return;
    const now = this.clock.now();
    const last = this.#reported.get(url);
    if (last !== undefined && now - last < REPORT_EVERY_MS) return;
    this.#reported.set(url, now);
    this.client.report(url, code);
  }

  /**
   * @param {string} type
   * @param {object} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
