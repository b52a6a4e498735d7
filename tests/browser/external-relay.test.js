// A `turn-relay` process beside `signaling`, which share a secret.

import assert from 'node:assert/strict';
import { relayCarriesTheCall } from '../harness/relayed-call.js';
import { scenario, until } from '../harness/scenario.js';
import { startRelay, startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

for (const transport of ['udp', 'tcp']) {
  scenario(`two tabs are in a call through a relay of its own over ${transport} when both servers share the secret`, async (stage) => {
    const { relay, signaling } = await servers(stage, 'the same secret', 'the same secret');
    const browser = await startBrowser(stage);
    const url = roomUrl(signaling.port, 'external', { relay: transport });
    const [one, two] = [await (await browser.tab(url)).join(), await (await browser.tab(url)).join()];

    await inCall([one, two], 'relayed');
    await relayCarriesTheCall(stage, relay, one, two);
  });
}

scenario('a wrong secret gives no allocation, and both logs say why', async (stage) => {
  const { relay, signaling } = await servers(stage, 'the secret of the relay', 'another secret');
  const browser = await startBrowser(stage);
  const url = roomUrl(signaling.port, 'external', { relay: 'udp' });
  const [one, two] = [await (await browser.tab(url)).join(), await (await browser.tab(url)).join()];

  await until('both tabs to have tried', async () => {
    const states = await Promise.all([[one, two], [two, one]].map(([tab, other]) => tab.run((id) => globalThis.call.peers.get(id)?.connection.iceGatheringState, other.id)));
    return states.every((state) => state === 'complete');
  });
  await relay.program.printed(/secret|integrity/);
  await signaling.program.printed(/could not allocate.*401.*--turn-secret-file/);
  assert.deepEqual(await one.candidateTypes(two), []);
  assert.equal((await relay.metrics()).sum('turn_relay_allocations'), 0);
  assert.notEqual(await one.path(two), 'relayed');
});

/** @param {import('../harness/scenario.js').Stage} stage @param {string} relaySecret @param {string} signalingSecret */
async function servers(stage, relaySecret, signalingSecret) {
  const relay = await startRelay(stage, ['--secret-file', await stage.file('relay-secret', `${relaySecret}\n`)]);
  const urls = ['udp', 'tcp'].flatMap((transport) => ['--turn-url', `turn:127.0.0.1:${relay.port}?transport=${transport}`]);
  const secret = ['--turn-secret-file', await stage.file('signaling-secret', `${signalingSecret}\n`)];
  const signaling = await startSignaling(stage, { relay: false, args: [...urls, ...secret] });
  return { relay, signaling };
}
