// Real reverse proxies in front of the signaling server, as they come from Debian and with their default buffering: every transport passes, and a
// session outlives a restart of the proxy.

import assert from 'node:assert/strict';
import { WebSocket } from 'ws';
import { SignalingClient } from '../../web-demo/sdk/client.js';
import { randomText } from '../../web-demo/sdk/protocol.js';
import { EventStreamSocket, PollSocket } from '../../web-demo/sdk/requests.js';
import { freePort } from '../harness/ports.js';
import { haproxy, nginx, passingHaproxy, startProxy } from '../harness/reverse-proxies.js';
import { scenario, until } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';

const ROOM = 'proxied';
const SIGNALS = 120;

/** One that says nothing when it is refused but by its close, as in a browser. */
class QuietWebSocket extends WebSocket {
  /** @param {string} url @param {string[]} protocols */
  constructor(url, protocols) {
    super(url, protocols);
    this.on('error', () => undefined);
  }
}

for (const [name, proxy] of /** @type {const} */ ([['nginx', nginx()], ['HAProxy', haproxy]])) {
  for (const [transport, Socket] of /** @type {const} */ ([['a WebSocket', QuietWebSocket], ['an event stream', EventStreamSocket], ['polls', PollSocket]])) {
    scenario(`through ${name} over ${transport}, and over its restart, every signal arrives once and in order`, async (stage) => {
      const { ada, bob, restart } = await meet(stage, proxy, { WebSocket: Socket, fallbacks: [] });
      await talk(ada, bob, restart);
      assert.deepEqual(ada.welcomes, ['new', 'resumed']);
      assert.deepEqual(bob.left, []);
    });
  }
}

scenario('through an nginx that nobody told of WebSockets a client falls back by itself', async (stage) => {
  const { ada, bob } = await meet(stage, nginx({ websockets: false }), { WebSocket: QuietWebSocket });
  assert.equal(ada.client.rung, 1);
  await talk(ada, bob, async () => undefined);
  assert.deepEqual(ada.welcomes, ['new']);
});

/** @type {[string, Proxy, string[], unknown][]} */
const COUNTING = [
  ['nginx', nginx(), ['--forwarded-from', '127.0.0.1'], 429],
  ['HAProxy', haproxy, ['--forwarded-from', '127.0.0.1'], 429],
  // Here a connection is one client's, and ends before there is anything to answer.
  ['an HAProxy that passes TCP on', passingHaproxy, ['--proxy-protocol-from', '127.0.0.9'], 'closed'],
];

for (const [name, proxy, trust, refused] of COUNTING) {
  scenario(`clients behind ${name} count for themselves, whatever they say of themselves`, async (stage) => {
    const port = await freePort();
    const signaling = await startSignaling(stage, {
      relay: false,
      args: ['--no-embedded-relay', '--public-url', `http://127.0.0.1:${port}`, ...trust, '--max-connections-per-address', '1'],
    });
    await startProxy(stage, proxy, port, signaling.port);
    const from = (/** @type {string} */ localAddress, /** @type {Record<string, string>} */ headers = {}) =>
      new Promise((resolve) => {
        const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/rooms/${ROOM}/ws`, ['signaling.v1'], { localAddress, headers });
        stage.atEnd(async () => socket.terminate());
        socket.on('open', () => resolve(101));
        socket.on('unexpected-response', (_, response) => resolve(response.statusCode));
        socket.on('error', () => resolve('closed'));
      });
    assert.equal(await from('127.0.0.2'), 101);
    assert.equal(await from('127.0.0.2'), refused);
    assert.equal(await from('127.0.0.2', { 'X-Forwarded-For': '6.6.6.6', Forwarded: 'for=6.6.6.6' }), refused);
    assert.equal(await from('127.0.0.3'), 101);
  });
}

/**
 * Ada is behind the proxy, Bob is not.
 * @param {import('../harness/scenario.js').Stage} stage @param {import('../harness/reverse-proxies.js').Proxy} proxy @param {object} transports
 */
async function meet(stage, proxy, transports) {
  const port = await freePort();
  const signaling = await startSignaling(stage, { relay: false, args: ['--no-embedded-relay', '--public-url', `http://127.0.0.1:${port}`] });
  const { kill, start } = await startProxy(stage, proxy, port, signaling.port);
  const ada = enter(stage, port, transports);
  const bob = enter(stage, signaling.port, { WebSocket: QuietWebSocket, fallbacks: [] });
  await until('both to be in the room', () => ada.client.state === 'open' && bob.client.state === 'open');
  const restart = async () => {
    await kill();
    await until('Ada to notice', () => ada.client.state !== 'open');
    await start();
  };
  return { ada, bob, restart };
}

/** @param {import('../harness/scenario.js').Stage} stage @param {number} port @param {any} transports */
function enter(stage, port, transports) {
  const client = new SignalingClient({ url: `ws://127.0.0.1:${port}/v1/rooms/${ROOM}/ws`, secret: randomText(32), instance: randomText(9), network: undefined, ...transports });
  stage.atEnd(async () => client.leave());
  /** @type {{ client: SignalingClient, heard: number[], welcomes: string[], left: string[] }} */
  const who = { client, heard: [], welcomes: [], left: [] };
  const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ act) =>
    client.addEventListener(type, (event) => act(/** @type {CustomEvent} */ (event).detail));
  on('welcome', ({ outcome }) => who.welcomes.push(outcome));
  on('signal', ({ candidate }) => who.heard.push(candidate.number));
  on('peer_left', ({ peer }) => who.left.push(peer));
  client.connect();
  return who;
}

/** Both talk, and in the middle something happens. @param {ReturnType<typeof enter>} ada @param {ReturnType<typeof enter>} bob @param {() => Promise<unknown>} event */
async function talk(ada, bob, event) {
  const say = (/** @type {number} */ from, /** @type {number} */ to) => {
    for (let number = from; number < to; number += 1) {
      ada.client.signal(bob.client.peer ?? '', /** @type {any} */ ({ negotiation: 'n', candidate: { number } }));
      bob.client.signal(ada.client.peer ?? '', /** @type {any} */ ({ negotiation: 'n', candidate: { number } }));
    }
  };
  say(0, SIGNALS / 3);
  await until('the first third to arrive', () => [ada, bob].every(({ heard }) => heard.length >= SIGNALS / 3));
  // These are under way when it happens.
  say(SIGNALS / 3, (SIGNALS * 2) / 3);
  await event();
  say((SIGNALS * 2) / 3, SIGNALS);
  await until('all to arrive', () => [ada, bob].every(({ heard }) => heard.length >= SIGNALS));
  const numbers = Array.from({ length: SIGNALS }, (_, number) => number);
  assert.deepEqual(ada.heard, numbers);
  assert.deepEqual(bob.heard, numbers);
}
