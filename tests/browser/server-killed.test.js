// SIGKILL of the signaling server in the middle of a call: established video goes on, and after the restart both pages are back under the same
// peer ids with the same connections.

import assert from 'node:assert/strict';
import { Client, peerId } from '../harness/client.js';
import { scenario, until } from '../harness/scenario.js';
import { startRelay, startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

const ROOM = 'killed';

scenario('a direct call outlives the signaling server, and both pages come back as they were', async (stage) => {
  const signaling = await startSignaling(stage);
  const tabs = await callOfTwo(stage, signaling);
  await inCall(tabs, 'direct');
  await outlives(stage, signaling, tabs, 'direct');
});

scenario('a call over an external relay outlives the signaling server, and both pages come back as they were', async (stage) => {
  const secret = await stage.file('secret', 'shared by both\n');
  const relay = await startRelay(stage, ['--secret-file', secret]);
  const turn = ['--turn-url', `turn:127.0.0.1:${relay.port}?transport=udp`, '--turn-secret-file', secret];
  const signaling = await startSignaling(stage, { relay: false, args: turn });
  const tabs = await callOfTwo(stage, signaling, { relay: 'udp' });
  await inCall(tabs, 'relayed');
  await outlives(stage, signaling, tabs, 'relayed');
});

scenario('a call whose answer was lost with the server completes after the restart', async (stage) => {
  const signaling = await startSignaling(stage);
  const browser = await startBrowser(stage);
  const one = await (await browser.tab(roomUrl(signaling.port, ROOM))).join();
  // Members offer to the joiner: the answer is the second tab's.
  const two = await browser.tab(roomUrl(signaling.port, ROOM));
  await two.run(() => globalThis.probe.hold('"type":"answer"'));
  await two.join();
  await until('the answer to be on its way', () => two.run(() => globalThis.probe.held() > 0));
  assert.equal(await one.run((id) => globalThis.call.peers.get(id).connection.signalingState, two.id), 'have-local-offer');
  const ids = [one.id, two.id];
  for (const tab of [one, two]) await tab.run(() => globalThis.probe.keepConnections());

  await signaling.kill();
  await Promise.all([one.banner('signaling-lost'), two.banner('signaling-lost')]);
  await two.run(() => globalThis.probe.hold(null));
  await signaling.start();

  await inCall([one, two], 'direct');
  await backAsTheyWere([one, two], ids);
  await one.seesPictureOf(two);
  await two.seesPictureOf(one);
});

/** @param {import('../harness/scenario.js').Stage} stage @param {{ port: number }} signaling @param {Record<string, string>} [query] */
async function callOfTwo(stage, signaling, query) {
  const browser = await startBrowser(stage);
  const url = roomUrl(signaling.port, ROOM, query);
  return [await (await browser.tab(url)).join(), await (await browser.tab(url)).join()];
}

/**
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {import('../harness/servers.js').Signaling} signaling
 * @param {import('../harness/tab.js').Tab[]} tabs
 * @param {'direct' | 'relayed'} path
 */
async function outlives(stage, signaling, tabs, path) {
  const [one, two] = tabs;
  const ids = [one.id, two.id];
  await one.seesPictureOf(two);
  await two.seesPictureOf(one);
  for (const tab of tabs) await tab.run(() => globalThis.probe.keepConnections());
  await Promise.all([one.watch(two), two.watch(one)]);

  await signaling.kill();
  const killed = Date.now();
  await Promise.all(tabs.map((tab) => tab.banner('signaling-lost')));
  await one.seesPictureOf(two, 40);
  await two.seesPictureOf(one, 40);
  await signaling.start();
  const outage = Date.now() - killed;

  await Promise.all(tabs.map((tab) => tab.banner('ok')));
  stage.say(`back ${Date.now() - killed - outage} ms after the restart`);
  await inCall(tabs, path);
  await backAsTheyWere(tabs, ids);
  const gaps = [(await one.seesPictureOf(two)).longestGap, (await two.seesPictureOf(one)).longestGap].map(Math.round);
  stage.say(`the server was gone for ${outage} ms; longest time without a new frame: ${gaps.join(' and ')} ms`);
  assert.ok(Math.max(...gaps) < outage, 'video went on through the outage');

  const visitor = await Client.join(stage, signaling.port, ROOM);
  const members = visitor.welcome.room.peers.map((/** @type {{ peer: string }} */ member) => member.peer);
  assert.deepEqual(members.sort(), [...ids].sort(), 'the room holds both, once each');
  assert.equal(visitor.welcome.peer, peerId(ROOM, visitor.secret));
}

/** @param {import('../harness/tab.js').Tab[]} tabs @param {string[]} ids */
async function backAsTheyWere(tabs, ids) {
  assert.deepEqual(await Promise.all(tabs.map((tab) => tab.run(() => globalThis.call.client.peer))), ids, 'same peer ids');
  const others = [...ids].reverse();
  for (const [index, tab] of tabs.entries()) {
    assert.deepEqual(await tab.tiles(), [others[index]], 'one tile for the other');
    assert.ok(await tab.run((id) => globalThis.probe.connectionIsKept(id), others[index]), 'same RTCPeerConnection');
  }
}
