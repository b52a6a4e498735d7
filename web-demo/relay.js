// @ts-check
/**
 * `?relay=udp|tcp|any`: use only a TURN relay, reached in that way. For people who want to see their relay work,
 * and for tests.
 *
 * @import { IceServer } from "./sdk/protocol.js"
 */

/**
 * @param {IceServer[]} servers as the server announced them
 * @param {"udp" | "tcp" | "any" | null} relay
 * @returns {RTCConfiguration}
 */
export function iceConfiguration(servers, relay) {
  // One transport from the first offer on: without this the offerer opens an allocation per track.
  const bundlePolicy = "max-bundle";
  if (relay === null) return { iceServers: servers, bundlePolicy };
  const iceServers = servers
    .map((server) => ({ ...server, urls: server.urls.filter((url) => isTurn(url) && (relay === "any" || transportOf(url) === relay)) }))
    .filter((server) => server.urls.length > 0);
  return { iceServers, bundlePolicy, iceTransportPolicy: "relay" };
}

/** @param {string} url */
function isTurn(url) {
  return /^turns?:/i.test(url);
}

/**
 * RFC 7065: without `?transport=` a `turn:` URL means UDP and a `turns:` URL TCP.
 * @param {string} url
 */
function transportOf(url) {
  const named = /[?&]transport=(\w+)/i.exec(url)?.[1].toLowerCase();
  return named ?? (/^turns:/i.test(url) ? "tcp" : "udp");
}

/** @param {string | null} text */
export function relayOption(text) {
  return text === "udp" || text === "tcp" || text === "any" ? text : null;
}
