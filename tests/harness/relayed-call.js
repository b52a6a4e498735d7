// What must hold of a call between two tabs that the relay carries.

import assert from 'node:assert/strict';

/**
 * Both tabs receive each other's media, know of relay candidates alone, and the relay counted at least the bytes that they say flowed.
 * @param {import('./scenario.js').Stage} stage
 * @param {{ metrics: () => Promise<import('./metrics.js').Metrics> }} relay
 * @param {import('./tab.js').Tab} one
 * @param {import('./tab.js').Tab} two
 */
export async function relayCarriesTheCall(stage, relay, one, two) {
  // The counters are read outside of what the pages counted: before, and after.
  const before = relayedBytes(await relay.metrics());
  const flowBefore = [await one.flow(two), await two.flow(one)];
  for (const [tab, other] of [[one, two], [two, one]]) {
    await tab.seesPictureOf(other);
    await tab.receivesMediaOf(other);
    assert.deepEqual([...new Set(await tab.candidateTypes(other))], ['relay']);
  }
  const flowAfter = [await one.flow(two), await two.flow(one)];
  const after = relayedBytes(await relay.metrics());

  const grown = (/** @type {'bytesSent' | 'bytesReceived'} */ what) => flowAfter[0][what] - flowBefore[0][what] + flowAfter[1][what] - flowBefore[1][what];
  const [sent, received] = [grown('bytesSent'), grown('bytesReceived')];
  const [fromClients, toClients] = [after.fromClients - before.fromClients, after.toClients - before.toClients];
  stage.say(`pages sent ${sent} and received ${received} bytes; the relay counted ${fromClients} from clients and ${toClients} to clients`);
  assert.ok(sent > 10_000, 'media flowed');
  assert.ok(fromClients >= sent, `the relay counted ${fromClients} bytes from clients, the pages sent ${sent}`);
  assert.ok(toClients >= received, `the relay counted ${toClients} bytes to clients, the pages received ${received}`);
}

/** @param {import('./metrics.js').Metrics} metrics */
function relayedBytes(metrics) {
  return {
    fromClients: metrics.sum('turn_relay_relayed_bytes_total', { direction: 'to_peer' }),
    toClients: metrics.sum('turn_relay_relayed_bytes_total', { direction: 'to_client' }),
  };
}
