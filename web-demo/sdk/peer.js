// @ts-check
/**
 * One RTCPeerConnection to one remote peer: perfect negotiation (W3C WebRTC 1.0, section 10.7) with the politeness
 * that the server assigned, and recovery of lost media by ICE restart.
 *
 * Every offer/answer exchange has a `negotiation` id drawn by the offerer; an answer to another negotiation than
 * the outstanding one and a candidate of another ICE generation are stale and dropped. The data channel is
 * negotiated in-band by number, so both sides may open it without asking.
 *
 * Events: `track` { kind, track }, `state`, `open`, `message` (text of the data channel), `begin_anew` { signal? }
 * (this connection cannot be continued; the owner replaces the Peer), `ice_error` { url, code }.
 *
 * @import { Clock } from "./clock.js"
 * @import { SignalBody } from "./protocol.js"
 * @typedef {"audio" | "video"} Kind
 */

import { Timer, systemClock } from "./clock.js";
import { randomText } from "./protocol.js";
import { Renewal } from "./renewal.js";

/** An existing member offers at once; if none did by then, the joiner stops waiting for it. */
const OFFER_PATIENCE_MS = 5_000;
/** `disconnected` often heals by itself within one or two consent checks. */
const DISCONNECTED_PATIENCE_MS = 3_000;
/** The polite side restarts only if the impolite one did not, which spares most glare. */
const POLITE_EXTRA_MS = 2_000;
const RESTART_FIRST_MS = 8_000;
const RESTART_CAP_MS = 30_000;
/** An offer without an answer by then is repeated: what carried it or the answer was refused or lost. */
const UNANSWERED_MS = 15_000;
/** Pause before a connection that cannot be negotiated any further is replaced, lest two sides do it in a frenzy. */
const ANEW_PATIENCE_MS = 1_000;
/** ICE restarts cannot repair a failed DTLS association; after this many a fresh connection can. */
const RESTARTS_BEFORE_ANEW = 4;

export class Peer extends EventTarget {
  /** What arrives from the remote side. @type {Map<Kind, MediaStreamTrack>} */
  tracks = new Map();
  /** True once media flowed; tells "media lost" from "not yet connected". */
  wasConnected = false;

  #making_offer = false;
  /** Negotiation id of our outstanding (or last) offer. */
  #offered = "";
  /** Negotiation id of the description that our present candidates belong to. */
  #negotiation = "";
  #negotiations = 0;
  #may_offer;
  #restarts = 0;
  #closed = false;
  #ended_generation = "";
  /** @type {Map<Kind, RTCRtpSender>} */
  #senders = new Map();
  /** Incoming signals are handled one after the other. @type {Promise<void>} */
  #inbox = Promise.resolve();

  /**
   * @param {object} options
   * @param {string} options.id the remote peer
   * @param {string} options.instance its page load
   * @param {string} [options.name]
   * @param {boolean} options.polite whether we are polite towards it
   * @param {boolean} options.offers whether we were here first, and so make the first offer
   * @param {(body: SignalBody) => void} options.send
   * @param {RTCConfiguration} options.configuration
   * @param {number} [options.credentials_end] when its TURN credentials end, by the clock
   * @param {(configuration: RTCConfiguration) => RTCPeerConnection} [options.createConnection]
   * @param {Clock} [options.clock]
   */
  constructor({ id, instance, name, polite, offers, send, configuration, credentials_end = Infinity, createConnection = (c) => new RTCPeerConnection(c), clock = systemClock }) {
    super();
    this.id = id;
    this.instance = instance;
    this.name = name;
    this.polite = polite;
    this.send = send;
    /** Whether the server still sees it: `here`, `away` (connection lost, in grace), or `unconfirmed` after a resync. @type {"here" | "away" | "unconfirmed"} */
    this.presence = "here";
    this.#may_offer = offers;
    this.prefix = randomText(6);
    this.connection = createConnection(configuration);
    this.channel = this.connection.createDataChannel("call", { negotiated: true, id: 0 });
    this.renewal = new Renewal({ connection: this.connection, restart: () => this.restartIce(), clock });
    this.renewal.configured(credentials_end);
    this.offerTimer = new Timer(clock, () => this.#negotiate());
    this.restartTimer = new Timer(clock, () => this.#repair());
    this.anewTimer = new Timer(clock, () => this.#emit("begin_anew", {}));
    this.#listen();
    if (!offers) this.offerTimer.arm(OFFER_PATIENCE_MS);
  }

  #listen() {
    const { connection, channel } = this;
    connection.onnegotiationneeded = () => {
      if (this.#may_offer) void this.#negotiate();
    };
    connection.onicecandidate = ({ candidate }) => this.#sendCandidate(candidate);
    connection.onicecandidateerror = (event) => this.#emit("ice_error", { url: event.url, code: event.errorCode });
    connection.onconnectionstatechange = () => this.#connectionChanged();
    connection.ontrack = ({ track }) => {
      const kind = /** @type {Kind} */ (track.kind);
      this.tracks.set(kind, track);
      this.#emit("track", { kind, track });
    };
    channel.onopen = () => this.#emit("open", {});
    channel.onmessage = ({ data }) => this.#emit("message", data);
  }

  /**
   * Sends this track from now on; null stops sending without a negotiation.
   * @param {Kind} kind
   * @param {MediaStreamTrack | null} track
   * @param {MediaStream} stream groups audio and video, which keeps the lips in time
   */
  async setTrack(kind, track, stream) {
    const sender = this.#senders.get(kind);
    if (sender !== undefined) await sender.replaceTrack(track);
    else if (track !== null) this.#senders.set(kind, this.connection.addTrack(track, stream));
  }

  /**
   * Bounds how our picture is encoded for this peer; without a picture to send it does nothing.
   * @param {{ maxBitrate: number, scaleResolutionDownBy: number }} limit bits per second, and a divisor of both sides
   */
  async limitVideo(limit) {
    const sender = this.#senders.get("video");
    const parameters = sender?.getParameters();
    // Before the first negotiation some browsers have no encoding to bound yet.
    const encoding = parameters?.encodings?.[0];
    if (sender === undefined || parameters === undefined || encoding === undefined) return;
    if (encoding.maxBitrate === limit.maxBitrate && encoding.scaleResolutionDownBy === limit.scaleResolutionDownBy) return;
    Object.assign(encoding, limit);
    // Another change may be under way; the next call repeats it.
    await sender.setParameters(parameters).catch(() => undefined);
  }

  /** @param {string} text */
  say(text) {
    if (this.channel.readyState === "open") this.channel.send(text);
  }

  /**
   * A signal from the remote side. Never rejects: what cannot be applied is reported and dropped.
   * @param {SignalBody} signal
   * @returns {Promise<void>}
   */
  receive(signal) {
    this.#inbox = this.#inbox.then(() => this.#apply(signal)).catch((error) => {
      if (!this.#closed) console.warn("signal dropped", error);
    });
    return this.#inbox;
  }

  /** @param {SignalBody} signal */
  async #apply(signal) {
    if (this.#closed) return;
    if (signal.description) await this.#applyDescription(signal.negotiation, signal.description, signal);
    else if (signal.candidate) await this.#applyCandidate(signal.candidate);
  }

  /**
   * @param {string} negotiation
   * @param {RTCSessionDescriptionInit} description
   * @param {SignalBody} signal
   */
  async #applyDescription(negotiation, description, signal) {
    const { connection } = this;
    if (description.type !== "offer" && description.type !== "answer") return;
    const offer = description.type === "offer";
    if (!offer && (connection.signalingState !== "have-local-offer" || negotiation !== this.#offered)) return;
    if (isAnotherConnection(connection.remoteDescription, description)) {
      // The remote side began anew without a new page load; our half cannot be continued.
      this.#emit("begin_anew", { signal: offer ? signal : undefined });
      return;
    }
    const collision = offer && (this.#making_offer || connection.signalingState !== "stable");
    if (collision && !this.polite) return;
    this.offerTimer.cancel();
    try {
      await connection.setRemoteDescription(description);
    } catch (error) {
      this.anewTimer.arm(ANEW_PATIENCE_MS);
      throw error;
    }
    this.anewTimer.cancel();
    this.#may_offer = true;
    if (offer) {
      this.#negotiation = negotiation;
      await connection.setLocalDescription();
      this.#sendDescription(negotiation);
    }
  }

  /** @param {RTCIceCandidateInit} candidate */
  async #applyCandidate(candidate) {
    const { remoteDescription } = this.connection;
    const ufrag = candidate.usernameFragment;
    // Of a generation that was rolled back, ignored or has been restarted since.
    if (remoteDescription === null || (ufrag && !remoteDescription.sdp.includes(`a=ice-ufrag:${ufrag}\r\n`))) return;
    await this.connection.addIceCandidate(candidate);
  }

  async #negotiate() {
    const { connection } = this;
    this.offerTimer.cancel();
    this.#may_offer = true;
    if (this.#closed || this.#making_offer || connection.signalingState !== "stable") return;
    try {
      this.#making_offer = true;
      if (connection.remoteDescription === null) this.#askForMedia();
      this.#negotiations += 1;
      const negotiation = `${this.prefix}.${this.#negotiations}`;
      this.#offered = negotiation;
      this.#negotiation = negotiation;
      await connection.setLocalDescription();
      // An offer of theirs may have arrived meanwhile and rolled ours back.
      if (connection.localDescription?.type !== "offer") return;
      this.#sendDescription(negotiation);
      this.#scheduleRestart(UNANSWERED_MS);
    } catch (error) {
      if (!this.#closed) console.warn("offer failed", error);
    } finally {
      this.#making_offer = false;
    }
  }

  /** Whoever sends no picture or sound still wants to receive both. */
  #askForMedia() {
    const present = this.connection.getTransceivers().map((transceiver) => transceiver.receiver.track.kind);
    for (const kind of ["audio", "video"]) {
      if (!present.includes(kind)) this.connection.addTransceiver(kind, { direction: "recvonly" });
    }
  }

  /** @param {string} negotiation */
  #sendDescription(negotiation) {
    const description = this.connection.localDescription;
    if (description === null || this.#closed) return;
    this.renewal.gathered(iceUfrag(description));
    this.send({ negotiation, description: { type: description.type, sdp: description.sdp } });
  }

  /** @param {RTCIceCandidate | null} candidate null: this generation is complete (RFC 8838 section 13) */
  #sendCandidate(candidate) {
    if (this.#closed) return;
    if (candidate !== null && candidate.candidate !== "") {
      this.send({ negotiation: this.#negotiation, candidate: candidate.toJSON() });
      return;
    }
    // Some browsers say it twice, once as an empty candidate and once as null.
    const ufrag = candidate?.usernameFragment ?? iceUfrag(this.connection.localDescription);
    if (ufrag === undefined || ufrag === this.#ended_generation) return;
    this.#ended_generation = ufrag;
    this.send({ negotiation: this.#negotiation, candidate: { candidate: "", sdpMid: null, sdpMLineIndex: null, usernameFragment: ufrag } });
  }

  /**
   * What was sent to this peer may be lost (a session was renewed): repeats only what had not settled. A local
   * description carries the candidates gathered so far.
   */
  settle() {
    const { connection } = this;
    if (connection.signalingState === "have-local-offer") this.#sendDescription(this.#offered);
    else if (this.polite) return;
    // If our answer was lost, its offer comes again; an offer of ours would cross it and reverse the DTLS roles.
    else if (connection.localDescription?.type === "answer") this.restartTimer.arm(DISCONNECTED_PATIENCE_MS);
    else this.#repair();
  }

  /**
   * Other ICE servers, from the next gathering on.
   * @param {RTCConfiguration} configuration
   * @param {number} credentials_end when their credentials end, by the clock
   */
  configure(configuration, credentials_end) {
    this.connection.setConfiguration(configuration);
    this.renewal.configured(credentials_end);
  }

  /** Restarts ICE now. */
  restartIce() {
    this.#may_offer = true;
    if (this.connection.localDescription === null) void this.#negotiate();
    else this.connection.restartIce();
  }

  #connectionChanged() {
    const { connectionState } = this.connection;
    if (connectionState === "connected") {
      this.wasConnected = true;
      this.#restarts = 0;
      this.restartTimer.cancel();
    } else if (connectionState === "disconnected") {
      this.#scheduleRestart(DISCONNECTED_PATIENCE_MS);
    } else if (connectionState === "failed") {
      this.restartTimer.cancel();
      this.#scheduleRestart(0);
    }
    this.#emit("state", { state: connectionState });
  }

  /** @param {number} wait_ms */
  #scheduleRestart(wait_ms) {
    if (this.restartTimer.armed) return;
    const repeated_ms = this.#restarts === 0 ? 0 : Math.min(RESTART_CAP_MS, RESTART_FIRST_MS * 2 ** (this.#restarts - 1));
    this.restartTimer.arm(Math.max(wait_ms, repeated_ms) + (this.polite ? POLITE_EXTRA_MS : 0));
  }

  /** Asks again for an answer that did not come, or restarts ICE; leaves a connection that stands alone. */
  #repair() {
    const { connection } = this;
    if (this.#closed) return;
    if (connection.signalingState === "have-local-offer") {
      this.#sendDescription(this.#offered);
    } else if (connection.connectionState === "connected") {
      return;
    } else if (this.#restarts >= RESTARTS_BEFORE_ANEW && !this.polite) {
      this.#emit("begin_anew", {});
      return;
    } else {
      this.#restarts += 1;
      this.restartIce();
    }
    this.restartTimer.cancel();
    this.#scheduleRestart(RESTART_FIRST_MS);
  }

  close() {
    this.#closed = true;
    this.offerTimer.cancel();
    this.restartTimer.cancel();
    this.anewTimer.cancel();
    this.renewal.cancel();
    this.connection.close();
  }

  /**
   * @param {string} type
   * @param {unknown} detail
   */
  #emit(type, detail) {
    if (!this.#closed) this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * Every RTCPeerConnection has a certificate of its own, so another fingerprint means another connection.
 * @param {RTCSessionDescriptionInit | null} known
 * @param {RTCSessionDescriptionInit} arrived
 */
function isAnotherConnection(known, arrived) {
  const before = fingerprint(known);
  return before !== undefined && before !== fingerprint(arrived);
}

/** @param {RTCSessionDescriptionInit | null} description */
function fingerprint(description) {
  return /^a=fingerprint:(.+)$/m.exec(description?.sdp ?? "")?.[1].trim();
}

/** @param {RTCSessionDescriptionInit | null} description */
function iceUfrag(description) {
  return /^a=ice-ufrag:(.+)$/m.exec(description?.sdp ?? "")?.[1].trim();
}
