// @ts-check
/**
 * The candidate pair that carries a connection, as its statistics have it. An SDP lists what was possible, not what is used.
 *
 * @typedef {{ get(id: string): any, forEach(each: (entry: any) => void): void }} Stats an RTCStatsReport
 */

/** @param {Stats} stats */
export function selectedPair(stats) {
  /** @type {any} */
  let pair;
  stats.forEach((entry) => {
    if (entry.type === "transport" && entry.selectedCandidatePairId !== undefined) pair = stats.get(entry.selectedCandidatePairId);
  });
  if (pair !== undefined) return pair;
  // Browsers without transport statistics mark the pair itself.
  stats.forEach((entry) => {
    if (entry.type === "candidate-pair" && entry.selected === true) pair = entry;
  });
  return pair;
}

/**
 * Whether what we send leaves from an address of a TURN server: that takes credentials of ours. Of the other side's relay the
 * other side knows.
 * @param {Stats} stats
 */
export function usesOwnRelay(stats) {
  return stats.get(selectedPair(stats)?.localCandidateId)?.candidateType === "relay";
}
