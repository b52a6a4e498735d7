// Real Chromium tabs on the web demo: joins, reads what is on the page, what WebRTC counted, and the code in the received picture.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { until } from './scenario.js';

const PROBE = readFileSync(new URL('./probe.js', import.meta.url), 'utf8');

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
  '--autoplay-policy=no-user-gesture-required',
  // Without a real camera permission host candidates would hide behind multicast DNS names, which nobody resolves here.
  '--disable-features=WebRtcHideLocalIpsWithMdns',
];

/**
 * What a tab's camera shows: a code that the others read back, or a drawn person for people to look at.
 * @typedef {'code' | 'scene'} Picture
 */

/**
 * One Chromium with fresh profiles. Each tab has a window and a profile of its own and is in the foreground there: browsers draw tabs in the background
 * once a second. With `oneWindow` they are tabs of one window and one profile, as when a person opens the link twice.
 * @param {import('./scenario.js').Stage} stage
 * @param {{ oneWindow?: boolean } & import('playwright-core').BrowserContextOptions} [options] also viewport, scale, touch
 */
export async function startBrowser(stage, { oneWindow = false, ...options } = {}) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
  stage.atEnd(() => browser.close());
  const window = () => browser.newContext({ permissions: ['camera', 'microphone'], ...options });
  const shared = oneWindow ? await window() : undefined;
  let tabs = 0;
  return {
    /** Opens a tab on a room. Its number, 1 for the first, is in the picture that it sends. @param {string} url @param {{ picture?: Picture }} [options] */
    tab: async (url, { picture = 'code' } = {}) => {
      tabs += 1;
      return Tab.open(stage, shared ?? await window(), tabs, url, picture);
    },
  };
}

/** The address of a room's page. @param {number} port @param {string} room @param {Record<string, string>} [query] @param {string} [origin] without the port */
export const roomUrl = (port, room, query = {}, origin = 'http://127.0.0.1') => `${origin}:${port}/?${new URLSearchParams({ lang: 'en', ...query })}#${room}`;

export class Tab {
  /** Own peer id, known once joined. */
  id = '';
  /** Every WebSocket frame received, as parsed JSON. @type {any[]} */
  received = [];
  /** Errors that the page did not catch. @type {string[]} */
  uncaught = [];
  #console = '';

  /** @param {number} number @param {import('playwright-core').Page} page */
  constructor(number, page) {
    this.number = number;
    this.page = page;
    page.on('console', (message) => { this.#console += `[${message.type()}] ${message.text()}\n`; });
    page.on('pageerror', (error) => {
      this.uncaught.push(String(error.stack));
      this.#console += `[uncaught] ${error.stack}\n`;
    });
    page.on('websocket', (socket) => {
      this.#console += `[websocket] opened ${socket.url()}\n`;
      socket.on('close', () => { this.#console += '[websocket] closed\n'; });
      socket.on('framereceived', ({ payload }) => { this.received.push(JSON.parse(payload.toString())); });
    });
  }

  /** @param {import('./scenario.js').Stage} stage @param {import('playwright-core').BrowserContext} context @param {number} number @param {string} url @param {Picture} picture */
  static async open(stage, context, number, url, picture) {
    const page = await context.newPage();
    const tab = new Tab(number, page);
    stage.onFailure(() => tab.report());
    stage.checks.push(() => assert.deepEqual(tab.uncaught, [], 'no error is left uncaught in the page'));
    await page.addInitScript({ content: `globalThis.PROBE_TAB = ${number}; globalThis.PROBE_PICTURE = ${JSON.stringify(picture)};\n${PROBE}` });
    await page.goto(url);
    return tab;
  }

  /** Joins the room and waits until the page is in it. */
  async join(name = `Tab ${this.number}`) {
    await this.page.locator('#name').fill(name);
    await this.page.locator('#join').click();
    return this.joined();
  }

  /** Waits until the page is in the room, and learns its peer id. */
  async joined() {
    this.id = await until('the page to be in the room', () => this.run(() => globalThis.call?.client?.peer));
    await this.page.locator('#call').waitFor({ state: 'visible' });
    return this;
  }

  /**
   * Runs a function in the page.
   * @template A, R
   * @param {(argument: A) => R | Promise<R>} body
   * @param {A} [argument]
   * @returns {Promise<R>}
   */
  run(body, argument) {
    return /** @type {any} */ (this.page.evaluate(/** @type {any} */ (body), argument));
  }

  /** The peer ids that have a tile, in order; one that has two tiles is named twice. */
  tiles() {
    return this.page.locator('[data-peer]').evaluateAll((tiles) => tiles.map((tile) => /** @type {HTMLElement} */ (tile).dataset.peer));
  }

  /** `connecting`, `direct` or `relayed`. @param {Tab} peer */
  path(peer) {
    return this.page.locator(`[data-peer="${peer.id}"]`).getAttribute('data-path', { timeout: 1000 }).catch(() => null);
  }

  /** Waits for a state of the banner. @param {string} state */
  banner(state) {
    return until(`the banner of tab ${this.number} to say ${state}`, () =>
      this.page.locator('#banner').getAttribute('data-state').then((now) => now === state));
  }

  /** All that `getStats` says about the connection to a peer. @param {Tab} peer @returns {Promise<any[]>} */
  stats(peer) {
    return this.run(async (id) => [...(await globalThis.call.peers.get(id).connection.getStats()).values()], peer.id);
  }

  /** Frames decoded, audio received, and bytes on the selected pair. @param {Tab} peer */
  async flow(peer) {
    const stats = await this.stats(peer);
    const inbound = (/** @type {string} */ kind) => stats.find((entry) => entry.type === 'inbound-rtp' && entry.kind === kind) ?? {};
    const transport = stats.find((entry) => entry.type === 'transport') ?? {};
    const pair = stats.find((entry) => entry.id === transport.selectedCandidatePairId) ?? {};
    return {
      framesDecoded: inbound('video').framesDecoded ?? 0,
      audioBytes: inbound('audio').bytesReceived ?? 0,
      audioEnergy: inbound('audio').totalAudioEnergy ?? 0,
      bytesSent: pair.bytesSent ?? 0,
      bytesReceived: pair.bytesReceived ?? 0,
    };
  }

  /** The types of all candidates gathered and received for a peer. @param {Tab} peer */
  async candidateTypes(peer) {
    const stats = await this.stats(peer);
    return stats.filter((entry) => entry.type.endsWith('-candidate')).map((entry) => entry.candidateType);
  }

  /** Follows the frames shown of a peer from now on. @param {Tab} peer */
  watch(peer) {
    return this.run((id) => globalThis.probe.watch(id), peer.id);
  }

  /** What was seen since `watch`. @param {Tab} peer @returns {Promise<{ frames: number, codes: number, tab: number, count: number, backward: number, longestGap: number }>} */
  seen(peer) {
    return this.run((id) => globalThis.probe.seen(id), peer.id);
  }

  /** Waits until `codes` more distinct codes of that peer were read from the received picture, and checks that they are that peer's and go forward. @param {Tab} peer @param {number} [codes] */
  async seesPictureOf(peer, codes = 20) {
    if (!(await this.run((id) => globalThis.probe.watching(id), peer.id))) await this.watch(peer);
    const before = await this.seen(peer);
    const after = await until(`tab ${this.number} to read ${codes} more codes from the picture of tab ${peer.number}`, async () => {
      const now = await this.seen(peer);
      return now.codes >= before.codes + codes && now;
    });
    assert.equal(after.tab, peer.number, 'the picture that arrives is the picture that was sent');
    assert.equal(after.backward, before.backward, 'the picture goes forward');
    return after;
  }

  /** Waits until decoded frames, audio bytes and audio energy of a peer have all grown. @param {Tab} peer */
  async receivesMediaOf(peer) {
    const before = await this.flow(peer);
    return until(`video and audio of tab ${peer.number} to grow in tab ${this.number}, from ${JSON.stringify(before)}`, async () => {
      const now = await this.flow(peer);
      return now.framesDecoded > before.framesDecoded + 10 && now.audioBytes > before.audioBytes && now.audioEnergy > before.audioEnergy && now;
    });
  }

  async report() {
    const state = await this.run(() => ({
      url: location.href,
      peer: globalThis.call?.client?.peer,
      state: globalThis.call?.client?.state,
      banner: document.querySelector('#banner')?.getAttribute('data-state'),
      peers: [...(globalThis.call?.peers ?? [])].map(([id, { connection: c }]) => [id, c?.connectionState, c?.iceConnectionState, c?.signalingState]),
    })).catch((error) => `page does not answer: ${error}`);
    return `tab ${this.number}: ${JSON.stringify(state, null, 1)}\n${this.#console}last frames received:\n${
      this.received.slice(-20).map((frame) => JSON.stringify(frame).slice(0, 200)).join('\n')}`;
  }
}

/**
 * Waits until each tab has exactly one tile for each other tab, all on the given path.
 * @param {Tab[]} tabs
 * @param {'direct' | 'relayed'} path
 */
export async function inCall(tabs, path) {
  for (const tab of tabs) {
    const others = tabs.filter((other) => other !== tab);
    const expected = others.map((other) => other.id).sort().join();
    await until(`tab ${tab.number} to show ${others.length} peers`, async () => (await tab.tiles()).sort().join() === expected);
    for (const other of others) {
      await until(`tab ${tab.number} to say that tab ${other.number} is ${path}`, async () => (await tab.path(other)) === path);
    }
  }
}
