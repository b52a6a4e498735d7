// The operator stops a server in the middle of a call: it asks both pages to go to another one, they are welcomed there before they let go of the
// first, and nobody in the call notices.

import assert from 'node:assert/strict';
import { freePort } from '../harness/ports.js';
import { scenario, until } from '../harness/scenario.js';
import { Signaling, startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

const ROOM = 'drained';
const DRAIN_SECONDS = 3;

scenario('both pages of a call move to another server when theirs is stopped, and their call goes on', async (stage) => {
  const port = await freePort();
  const elsewhere = await startSignaling(stage, { relay: false, args: ['--no-embedded-relay', '--allow-origin', `http://127.0.0.1:${port}`] });
  const server = await new Signaling(stage, {
    host: '127.0.0.1', port, admin: await freePort(), relay: 0,
    args: ['--no-embedded-relay', '--drain-seconds', `${DRAIN_SECONDS}`, '--drain-url', `http://127.0.0.1:${elsewhere.port}`],
  }).start();
  const browser = await startBrowser(stage);
  const [one, two] = [await (await browser.tab(roomUrl(port, ROOM))).join(), await (await browser.tab(roomUrl(port, ROOM))).join()];
  const tabs = [one, two];
  await inCall(tabs, 'direct');
  await one.seesPictureOf(two);
  await two.seesPictureOf(one);
  for (const tab of tabs) await tab.run(remember);

  const stopped = server.program?.kill('SIGTERM');
  const at = `ws://127.0.0.1:${elsewhere.port}/v1/rooms/${ROOM}/ws`;
  await until('both pages to be on the other server', async () => {
    const urls = await Promise.all(tabs.map((tab) => tab.run(() => globalThis.call.client.url)));
    return urls.every((url) => url === at);
  });
  await stopped;
  assert.equal(server.program?.exitCode, 0);

  for (const [tab, other] of [[one, two], [two, one]]) {
    assert.ok(tab.received.some(({ type, url }) => type === 'goaway' && url === `http://127.0.0.1:${elsewhere.port}`), 'it was asked to go');
    assert.deepEqual(await tab.run(() => globalThis.states), [{ state: 'open', outcome: 'resync' }], 'it was never without a server');
    assert.equal(await tab.run(() => globalThis.call.client.peer), tab.id);
    assert.ok(await tab.run((id) => globalThis.probe.connectionIsKept(id), other.id), 'same RTCPeerConnection');
    await tab.receivesMediaOf(other);
  }
  await inCall(tabs, 'direct');
  const gaps = [await one.seesPictureOf(two), await two.seesPictureOf(one)].map(({ longestGap }) => Math.round(longestGap));
  stage.say(`longest time without a new frame: ${gaps.join(' and ')} ms`);
});

/** Runs in the page: keeps the connections, and from now on every state of the session. */
function remember() {
  globalThis.probe.keepConnections();
  const { client } = globalThis.call;
  globalThis.states = /** @type {object[]} */ ([]);
  client.addEventListener('state', ({ detail: { state } }) => globalThis.states.push({ state, outcome: client.welcome.outcome }));
}
