// @ts-check
/**
 * The wire contract `signaling.v1` as types and tables (signaling/PROTOCOL.md tells it in full).
 * Nothing here opens a connection or keeps state.
 *
 * @typedef {{ type: string, seq: number, ack: number }} Envelope
 *   `seq` counts the sequenced frames of one direction from 1 (0 = unsequenced);
 *   `ack` is the highest seq received in order from the other side.
 * @typedef {"open" | "knock" | "locked"} Door who may come in: everybody, whom somebody inside admits, or nobody
 * @typedef {{ role?: string, may_publish: boolean, may_kick: boolean, may_lock: boolean, expires_in_ms?: number }} Granted
 *   what we may do; the session ends after `expires_in_ms` if no other token is shown
 * @typedef {{ peer: string, instance: string, name?: string, role?: string, polite: boolean, state: "here" | "away" }} PeerEntry
 *   `polite` tells whether *we* are polite towards that peer.
 * @typedef {{ urls: string[], username?: string, credential?: string }} IceServer
 * @typedef {{ message_bytes: number, messages_per_second: number, message_burst?: number, replay_messages: number, replay_bytes: number }} Limits
 * @typedef {Envelope & {
 *   type: "welcome", session: string, peer: string, resume: string,
 *   outcome: "new" | "resumed" | "resync", reason?: string, features: string[], limits: Limits,
 *   ping: { interval_ms: number, deadline_ms: number }, grace_ms: number, granted?: Granted,
 *   ice: { servers: IceServer[], expires_in_ms?: number, refresh_in_ms?: number },
 *   room: { name: string, version: number, door?: Door, password?: boolean, peers: PeerEntry[] } }} Welcome
 * @typedef {Envelope & { type: "peer_joined", peer: string, instance: string, name?: string, role?: string, polite: boolean, resync: boolean, version: number }} PeerJoined
 * @typedef {Envelope & { type: "peer_changed", peer: string, state: "here" | "away", version: number }} PeerChanged
 * @typedef {Envelope & { type: "peer_left", peer: string, reason: string, version: number }} PeerLeft
 * @typedef {Envelope & { type: "room_changed", door: Door, password?: boolean, version: number }} RoomChanged
 * @typedef {Envelope & { type: "knock", peer: string, name?: string, role?: string }} Knock
 * @typedef {Envelope & { type: "knock_ended", peer: string }} KnockEnded
 * @typedef {{ peer: string, name?: string, ends_in_ms: number }} Ban a peer that is kept out of the room
 * @typedef {Envelope & { type: "bans", bans: Ban[] }} Bans
 * @typedef {Envelope & { type: "granted" } & Granted} GrantedFrame
 * @typedef {{ negotiation: string, description?: RTCSessionDescriptionInit, candidate?: RTCIceCandidateInit }} SignalBody
 * @typedef {Envelope & { type: "signal", from: string } & SignalBody} Signal
 * @typedef {Envelope & { type: "ice", servers: IceServer[], expires_in_ms?: number, refresh_in_ms?: number }} Ice
 * @typedef {Envelope & { type: "error", code: string, message: string, temporary: boolean, retry_after_ms?: number, re?: number }} ErrorFrame
 * @typedef {Envelope & { type: "notice", text: string }} Notice
 * @typedef {Envelope & { type: "goaway", in_ms: number, url?: string }} GoAway
 * @typedef {Welcome | GoAway | Notice | PeerJoined | PeerChanged | PeerLeft | RoomChanged | Knock | KnockEnded | Bans | GrantedFrame | Signal | Ice | ErrorFrame
 *   | (Envelope & { type: "ping" }) | (Envelope & { type: "ack" })} ServerFrame
 */

/** The WebSocket subprotocol. */
export const SUBPROTOCOL = "signaling.v1";

/** What a server that announces nothing allows; also what holds before the first welcome. */
export const DEFAULT_LIMITS = /** @type {Limits} */ ({
  message_bytes: 65_536,
  messages_per_second: 100,
  replay_messages: 1_024,
  replay_bytes: 262_144,
});

/** What everybody may where the server asks for no token. */
export const DEFAULT_GRANTED = /** @type {Granted} */ (Object.freeze({ may_publish: true, may_kick: false, may_lock: false }));

/** What a report may quote; TURN urls are ASCII. */
export const REPORT_URL_CHARACTERS = 256;

/** The close code that asks to come back for an answer. */
export const KNOCKING = 4104;

/** Close codes that another token may mend. */
export const UNVERIFIED = 4103;
export const UNAUTHORIZED = 4207;
export const TOKEN_EXPIRED = 4208;

/**
 * What a client does about a close code: come back at once (with backoff), come back after the wait that
 * the error frame before the close named, or stay away. Codes that are not ours (1006: the network, a
 * proxy, a killed server) count as "now".
 * @param {number} code
 * @returns {"now" | "after" | "never"}
 */
export function comeBack(code) {
  if (code >= 4100 && code < 4200) return "after";
  if (code >= 4200 && code < 4300) return "never";
  return "now";
}

/**
 * The address of our room on the server of another origin, or where it is if the origin is none, or would take us from TLS
 * to plain text.
 * @param {string} url ws(s)://host/v1/rooms/{room}/ws
 * @param {string | undefined} origin http(s)://host
 */
export function relocated(url, origin) {
  if (origin === undefined || !URL.canParse(origin)) return url;
  const [here, there] = [new URL(url), new URL(origin)];
  const protocol = { "http:": "ws:", "https:": "wss:" }[there.protocol];
  if (protocol === undefined || (here.protocol === "wss:" && protocol === "ws:")) return url;
  return `${protocol}//${there.host}${here.pathname}${here.search}`;
}

/** Names of the close codes, for messages and logs. */
export const CLOSE_NAMES = Object.freeze(
  /** @type {Record<number, string>} */ ({
    1000: "bye",
    4000: "going_away",
    4001: "ping_timeout",
    4002: "slow_reader",
    4003: "hello_timeout",
    4100: "overloaded",
    4101: "rate_limited",
    4102: "room_full",
    4103: "unverified",
    4104: "knocking",
    4200: "bad_frame",
    4201: "too_large",
    4202: "bad_hello",
    4203: "replaced",
    4204: "kicked",
    4205: "banned",
    4206: "locked",
    4207: "unauthorized",
    4208: "token_expired",
    4209: "denied",
    4210: "wrong_password",
    4211: "already_here",
  }),
);

/**
 * One frame off the wire, or null when it is none.
 * @param {unknown} data
 * @returns {ServerFrame | null}
 */
export function parseFrame(data) {
  if (typeof data !== "string") return null;
  /** @type {unknown} */
  let value;
  try {
    value = JSON.parse(data);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  const frame = /** @type {Partial<Envelope>} */ (value);
  if (typeof frame.type !== "string" || !isCount(frame.seq) || !isCount(frame.ack)) return null;
  return /** @type {ServerFrame} */ (frame);
}

/** @param {unknown} value */
function isCount(value) {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

const ROOM = /^[A-Za-z0-9._~-]{1,64}$/;

/**
 * The room name that a link's text stands for. Text outside the wire's alphabet (any language) is carried as
 * base64url of its UTF-8 behind `u~`, so that people may name rooms as they speak.
 * @param {string} text
 */
export function roomName(text) {
  if (ROOM.test(text) && text !== "." && text !== "..") return text;
  const bytes = new TextEncoder().encode(text);
  const name = `u~${base64url(bytes)}`;
  if (name.length <= 64) return name;
  // Cut names that begin alike must not meet, so what was cut off leaves its FNV-1a hash.
  const hash = bytes.reduce((sum, byte) => Math.imul(sum ^ byte, 0x01000193) >>> 0, 0x811c9dc5);
  return `${name.slice(0, 56)}${hash.toString(16).padStart(8, "0")}`;
}

/**
 * Text for randomly drawn bytes; 32 bytes make the 43 characters of a secret.
 * @param {number} bytes
 */
export function randomText(bytes) {
  return base64url(crypto.getRandomValues(new Uint8Array(bytes)));
}

/** @param {Uint8Array} bytes */
function base64url(bytes) {
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
