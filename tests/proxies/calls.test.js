// Two browsers in a call, both behind a real reverse proxy, over each transport: it comes up, media goes on while the proxy is restarted, and the signaling
// sessions are resumed through the new one. Where the proxy lets no WebSocket through it comes up within three seconds.

import assert from 'node:assert/strict';
import { cameSoon, joinAtOnce } from '../harness/hurry.js';
import { freePort } from '../harness/ports.js';
import { haproxy, nginx, startProxy } from '../harness/reverse-proxies.js';
import { scenario, until } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

const ROOM = 'proxied-call';
const TRANSPORTS = ['a WebSocket', 'an event stream', 'polls'];
const EVENT_STREAM = 1;

for (const [name, proxy] of /** @type {const} */ ([['nginx', nginx()], ['HAProxy', haproxy]])) {
  for (const [rung, transport] of TRANSPORTS.entries()) {
    scenario(`a call through ${name} over ${transport} comes up and outlives a restart of the proxy`, async (stage) => {
      const { tabs, kill, start } = await callThrough(stage, proxy, rung);
      const [one, two] = tabs;
      assert.deepEqual(await facts(tabs, 'rung'), [rung, rung]);
      const sessions = await facts(tabs, 'session');
      for (const tab of tabs) await tab.run(() => globalThis.probe.keepConnections());

      await kill();
      await until('both pages to notice', async () => (await facts(tabs, 'state')).every((state) => state !== 'open'));
      await one.seesPictureOf(two, 30);
      await two.seesPictureOf(one, 30);
      assert.ok((await facts(tabs, 'state')).every((state) => state !== 'open'), 'the proxy is still away');
      await start();

      await until('both pages to be back', async () => (await facts(tabs, 'state')).every((state) => state === 'open'));
      assert.deepEqual(await facts(tabs, 'outcome'), ['resumed', 'resumed']);
      assert.deepEqual(await facts(tabs, 'session'), sessions);
      // The resumed sessions carry what a call needs: a negotiation goes through, over the same connections.
      const before = await ufrag(one, two);
      await one.run((id) => globalThis.call.peers.get(id).restartIce(), two.id);
      await until('the negotiation to be over', async () => (await ufrag(one, two)) !== before);
      await inCall(tabs, 'direct');
      const gaps = [await one.seesPictureOf(two), await two.seesPictureOf(one)].map(({ longestGap }) => Math.round(longestGap));
      stage.say(`longest time without a new frame, the restart included: ${gaps.join(' and ')} ms`);
      for (const [tab, other] of [[one, two], [two, one]]) assert.ok(await tab.run((id) => globalThis.probe.connectionIsKept(id), other.id));
    });
  }
}

scenario('through an nginx that nobody told of WebSockets a call comes up within three seconds of opening the page', async (stage) => {
  const { port } = await proxied(stage, nginx({ websockets: false }));
  const browser = await startBrowser(stage);
  const [one, two] = [await (await browser.tab(roomUrl(port, ROOM))).join(), await browser.tab('about:blank')];
  await joinAtOnce(two, port, ROOM);
  await inCall([one, two], 'direct');
  await two.seesPictureOf(one);
  assert.deepEqual(await facts([one, two], 'rung'), [EVENT_STREAM, EVENT_STREAM]);
  await cameSoon(stage, two);
});

/** A server, and a proxy in front of it. @param {import('../harness/scenario.js').Stage} stage @param {import('../harness/reverse-proxies.js').Proxy} proxy */
async function proxied(stage, proxy) {
  const port = await freePort();
  const signaling = await startSignaling(stage, { relay: false, args: ['--no-embedded-relay', '--public-url', `http://127.0.0.1:${port}`] });
  return { port, ...await startProxy(stage, proxy, port, signaling.port) };
}

/** @param {import('../harness/scenario.js').Stage} stage @param {import('../harness/reverse-proxies.js').Proxy} proxy @param {number} rung */
async function callThrough(stage, proxy, rung) {
  const { port, ...running } = await proxied(stage, proxy);
  const browser = await startBrowser(stage);
  const tabs = [];
  for (let count = 0; count < 2; count += 1) {
    const tab = await browser.tab('about:blank');
    await tab.page.addInitScript(withoutBetterThan, rung);
    await tab.page.goto(roomUrl(port, ROOM));
    tabs.push(await tab.join());
  }
  const [one, two] = tabs;
  await inCall(tabs, 'direct');
  await one.seesPictureOf(two);
  await two.seesPictureOf(one);
  return { tabs, ...running };
}

/** Runs in a page before anything else: the browser has no transport above that rung. @param {number} rung */
function withoutBetterThan(rung) {
  if (rung > 0) {
    globalThis.WebSocket = /** @type {any} */ (class {
      readyState = 3;
      constructor() {
        queueMicrotask(() => /** @type {any} */ (this).onclose?.({ code: 1006 }));
      }
      close() {}
    });
  }
  if (rung < 2) return;
  const { fetch } = globalThis;
  globalThis.fetch = (input, init) => (`${input}`.endsWith('/events') ? Promise.reject(new TypeError('no event stream')) : fetch(input, init));
}

/** @param {import('../harness/tab.js').Tab[]} tabs @param {'rung' | 'state' | 'session' | 'outcome'} what */
const facts = (tabs, what) => Promise.all(tabs.map((tab) => tab.run((key) => {
  const { rung, state, welcome } = globalThis.call.client;
  return /** @type {any} */ ({ rung, state, session: welcome.session, outcome: welcome.outcome })[key];
}, what)));

/** Which ICE generation the other side is in. @param {import('../harness/tab.js').Tab} tab @param {import('../harness/tab.js').Tab} other */
const ufrag = (tab, other) => tab.run((id) => /a=ice-ufrag:(.*)/.exec(globalThis.call.peers.get(id).connection.currentRemoteDescription.sdp)?.[1], other.id);
