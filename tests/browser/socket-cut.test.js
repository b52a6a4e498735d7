// One WebSocket is cut for five seconds: the session is resumed, what was sent meanwhile arrives exactly once, and nobody saw anyone leave.

import assert from 'node:assert/strict';
import { Client } from '../harness/client.js';
import { Proxy } from '../harness/proxy.js';
import { scenario, until } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

const ROOM = 'cut';
const CUT_MS = 5_000;

scenario('a page whose WebSocket is cut for 5 s in a call is resumed, and gets once what was sent meanwhile', async (stage) => {
  const signaling = await startSignaling(stage);
  const proxy = await new Proxy(signaling.port).listen();
  stage.atEnd(() => proxy.close());
  const browser = await startBrowser(stage);
  const one = await (await browser.tab(roomUrl(proxy.port, ROOM))).join();
  const two = await (await browser.tab(roomUrl(signaling.port, ROOM))).join();
  await inCall([one, two], 'direct');
  await one.seesPictureOf(two);
  await two.seesPictureOf(one);
  for (const tab of [one, two]) await tab.run(() => globalThis.probe.keepConnections());
  // This is about WebSockets, whose frames are looked at below: nothing else gets through the cut either.
  await one.run(() => { globalThis.call.client.ladder.rungs = 1; });
  const welcomes = count(one, 'welcome');

  proxy.cut();
  const cut = Date.now();
  await one.banner('signaling-lost');
  // Both sides have something to say while one of them cannot be reached: new ICE credentials, which are a description and candidates.
  const negotiated = await localCredentials(two, one);
  await two.run((id) => globalThis.call.peers.get(id).connection.restartIce(), one.id);
  const renewed = await until('the other page to offer again', async () => {
    const now = await localCredentials(two, one);
    return now !== negotiated && now;
  });
  await one.seesPictureOf(two, 30);
  await until('five seconds to have passed', () => Date.now() - cut >= CUT_MS);
  proxy.restore();

  await one.banner('ok');
  await until('the renewed offer to be answered', async () => (await remoteCredentials(one, two)) === renewed);
  await until('both to have settled', async () =>
    (await one.run((id) => globalThis.call.peers.get(id).connection.signalingState, two.id)) === 'stable' &&
    (await two.run((id) => globalThis.call.peers.get(id).connection.signalingState, one.id)) === 'stable');
  await inCall([one, two], 'direct');
  await one.seesPictureOf(two);
  await two.seesPictureOf(one);

  assert.equal(count(one, 'welcome'), welcomes + 1);
  assert.equal(one.received.filter((frame) => frame.type === 'welcome').at(-1).outcome, 'resumed');
  const offers = one.received.filter((frame) => frame.type === 'signal' && frame.description?.sdp?.includes(`a=ice-ufrag:${renewed}`));
  assert.equal(new Set(offers.map((frame) => frame.seq)).size, 1, 'the offer of the cut arrived under one sequence number');
  for (const tab of [one, two]) assert.equal(count(tab, 'peer_left'), 0, 'nobody saw anyone leave');
  assert.ok(await one.run((id) => globalThis.probe.connectionIsKept(id), two.id));
  assert.ok(await two.run((id) => globalThis.probe.connectionIsKept(id), one.id));
});

scenario('a scripted client that is cut gets all signals of the cut exactly once and in order, both ways', async (stage) => {
  const signaling = await startSignaling(stage, { relay: false, args: ['--no-embedded-relay'] });
  const proxy = await new Proxy(signaling.port).listen();
  stage.atEnd(() => proxy.close());
  const cut = await Client.join(stage, proxy.port, ROOM);
  const other = await Client.join(stage, signaling.port, ROOM);
  const observer = await Client.join(stage, signaling.port, ROOM);

  proxy.cut();
  await cut.end();
  const said = Array.from({ length: 100 }, (_, index) => ({ number: index }));
  for (const candidate of said) other.signal(cut.welcome.peer, candidate);
  await until('the server to know of the cut', () => observer.frames.some((frame) => frame.type === 'peer_changed' && frame.state === 'away'));
  proxy.restore();

  const back = new Client(stage, proxy.port, ROOM, { secret: cut.secret });
  back.received = cut.received;
  back.sent = cut.sent;
  await back.open();
  const welcome = await back.hello({ resume: cut.welcome.resume });
  assert.equal(welcome.outcome, 'resumed');
  assert.equal(welcome.session, cut.welcome.session);
  for (const candidate of said) back.signal(other.welcome.peer, candidate);

  const heard = async (/** @type {Client} */ client) => {
    await until('all signals', () => client.frames.filter((frame) => frame.type === 'signal').length >= said.length);
    return client.frames.filter((frame) => frame.type === 'signal').map((frame) => frame.candidate);
  };
  assert.deepEqual(await heard(back), said);
  assert.deepEqual(await heard(other), said);
  for (const client of [other, observer]) assert.ok(!client.frames.some((frame) => frame.type === 'peer_left'));
});

/** @param {import('../harness/tab.js').Tab} tab @param {string} type */
const count = (tab, type) => tab.received.filter((frame) => frame.type === type).length;

/** @param {import('../harness/tab.js').Tab} tab @param {import('../harness/tab.js').Tab} other @returns {Promise<string | undefined>} */
const localCredentials = (tab, other) =>
  tab.run((id) => /a=ice-ufrag:(\S+)/.exec(globalThis.call.peers.get(id).connection.localDescription?.sdp ?? '')?.[1], other.id);

/** @param {import('../harness/tab.js').Tab} tab @param {import('../harness/tab.js').Tab} other @returns {Promise<string | undefined>} */
const remoteCredentials = (tab, other) =>
  tab.run((id) => /a=ice-ufrag:(\S+)/.exec(globalThis.call.peers.get(id).connection.remoteDescription?.sdp ?? '')?.[1], other.id);
