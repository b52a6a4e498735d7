// A proxy stands in the way of WebSockets: the call comes up over what gets through, within three seconds of opening the page, and goes back to a
// WebSocket when one does.

import assert from 'node:assert/strict';
import { cameSoon, joinAtOnce } from '../harness/hurry.js';
import { scenario, until } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';
import { WebProxy } from '../harness/web-proxy.js';

const ROOM = 'blocked';
const [WEBSOCKET, EVENT_STREAM, POLLS] = [0, 1, 2];

for (const { what, websockets, streams, rung } of /** @type {const} */ ([
  { what: 'refuses WebSockets', websockets: 'refuse', streams: 'pass', rung: EVENT_STREAM },
  { what: 'does not answer WebSockets', websockets: 'ignore', streams: 'pass', rung: EVENT_STREAM },
  { what: 'opens WebSockets and swallows what they carry', websockets: 'swallow', streams: 'pass', rung: EVENT_STREAM },
  { what: 'refuses WebSockets and holds answers back until they end', websockets: 'refuse', streams: 'hold', rung: POLLS },
])) {
  scenario(`behind a proxy that ${what} a call comes up soon all the same`, async (stage) => {
    const { one, two } = await startCall(stage, websockets, streams);
    assert.equal(await rungOf(one), rung);
    assert.equal(await rungOf(two), WEBSOCKET);
    await cameSoon(stage, one);
  });
}

scenario('a page that fell back goes up to a WebSocket again by itself, and nobody sees it leave', async (stage) => {
  const { proxy, one, two } = await startCall(stage, 'refuse', 'pass');
  const session = await one.run(() => globalThis.call.client.welcome.session);
  proxy.websockets = 'pass';
  await until('the page to be on a WebSocket', async () => (await rungOf(one)) === WEBSOCKET);
  await one.seesPictureOf(two);
  assert.equal(await one.run(() => globalThis.call.client.welcome.session), session);
  assert.ok(!two.received.some((frame) => frame.type === 'peer_left' || frame.type === 'peer_changed'), 'the other noticed nothing');
  // The session still carries what it should.
  await two.run((id) => globalThis.call.peers.get(id).connection.restartIce(), one.id);
  await until('an offer over the WebSocket', () => one.received.some((frame) => frame.type === 'signal' && frame.description?.type === 'offer'));
  await inCall([one, two], 'direct');
});

/**
 * Two tabs in a call; the first is behind the proxy and joins last.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {WebProxy['websockets']} websockets @param {WebProxy['streams']} streams
 */
async function startCall(stage, websockets, streams) {
  const signaling = await startSignaling(stage);
  const proxy = await new WebProxy(signaling.port).listen();
  stage.atEnd(() => proxy.close());
  Object.assign(proxy, { websockets, streams });
  const browser = await startBrowser(stage);
  const two = await (await browser.tab(roomUrl(signaling.port, ROOM))).join();
  const one = await browser.tab('about:blank');
  await joinAtOnce(one, proxy.port, ROOM);
  await inCall([one, two], 'direct');
  await one.seesPictureOf(two);
  await two.seesPictureOf(one);
  return { proxy, one, two };
}

/** @param {import('../harness/tab.js').Tab} tab @returns {Promise<number>} */
const rungOf = (tab) => tab.run(() => globalThis.call.client.rung);
