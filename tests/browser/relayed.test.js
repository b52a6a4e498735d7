// A call in which nothing but the relay may carry media: the embedded relay of `signaling`, over UDP and over TCP.

import assert from 'node:assert/strict';
import { relayCarriesTheCall } from '../harness/relayed-call.js';
import { scenario } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

for (const transport of ['udp', 'tcp']) {
  scenario(`two tabs see and hear each other through the embedded relay over ${transport}`, async (stage) => {
    const signaling = await startSignaling(stage);
    const browser = await startBrowser(stage);
    const url = roomUrl(signaling.port, 'relayed', { relay: transport });
    const [one, two] = [await (await browser.tab(url)).join(), await (await browser.tab(url)).join()];

    await inCall([one, two], 'relayed');
    await relayCarriesTheCall(stage, signaling, one, two);
    assert.equal(await relayProtocol(one, two), transport);
    assert.equal(await relayProtocol(two, one), transport);
  });
}

/** The transport between a tab and the relay. @param {import('../harness/tab.js').Tab} tab @param {import('../harness/tab.js').Tab} other */
async function relayProtocol(tab, other) {
  const stats = await tab.stats(other);
  const transport = stats.find((entry) => entry.type === 'transport');
  const pair = stats.find((entry) => entry.id === transport.selectedCandidatePairId);
  return stats.find((entry) => entry.id === pair.localCandidateId).relayProtocol;
}
