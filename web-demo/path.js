// @ts-check
/**
 * How media travels to a peer and how much of it. The path is read from the candidate pair that ICE selected and never from SDP: an SDP lists
 * what was possible, not what is used.
 *
 * @typedef {{ kind: "connecting" | "direct" | "relayed", rtt_ms?: number, local?: string, remote?: string, protocol?: string }} Path
 */

import { selectedPair } from "./sdk/pair.js";

/**
 * @param {RTCPeerConnection} connection
 * @returns {Promise<Path>}
 */
export async function selectedPath(connection) {
  if (connection.connectionState !== "connected") return { kind: "connecting" };
  return pathOf(await connection.getStats());
}

/**
 * @param {{ get(id: string): any, forEach(each: (entry: any) => void): void }} stats an RTCStatsReport
 * @returns {Path}
 */
export function pathOf(stats) {
  const pair = selectedPair(stats);
  const local = stats.get(pair?.localCandidateId);
  const remote = stats.get(pair?.remoteCandidateId);
  if (local === undefined || remote === undefined) return { kind: "connecting" };
  const relayed = local.candidateType === "relay" || remote.candidateType === "relay";
  const rtt = pair.currentRoundTripTime;
  return {
    kind: relayed ? "relayed" : "direct",
    rtt_ms: typeof rtt === "number" ? Math.round(rtt * 1000) : undefined,
    local: local.candidateType,
    remote: remote.candidateType,
    protocol: local.relayProtocol ?? local.protocol,
  };
}

/** What a home's uplink carries without hurting anything else. */
const UPLINK_BITS = 3_000_000;
const MOST_BITS = 1_500_000;
/** Below this a picture helps nobody. */
const FEWEST_BITS = 200_000;

/**
 * How each peer's copy of our picture is encoded. A screen keeps its size, since its text must stay readable.
 * @param {number} peers
 * @param {boolean} screen
 * @returns {{ maxBitrate: number, scaleResolutionDownBy: number }}
 */
export function videoLimit(peers, screen) {
  const share = Math.max(FEWEST_BITS, Math.min(MOST_BITS, Math.round(UPLINK_BITS / Math.max(1, peers))));
  return { maxBitrate: share, scaleResolutionDownBy: screen || peers <= 2 ? 1 : peers <= 4 ? 1.5 : 2 };
}
