// Credentials of 20 seconds and a relay that ends what they opened: a relay-only call goes on without a visible break, because the
// SDK moves it to a fresh allocation in time. Without that it breaks.
//
// CREDENTIALS_SECONDS=120 makes it two minutes, which are six lifetimes.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { openChromium, openFirefox } from '../harness/browsers.js';
import { scenario, until } from '../harness/scenario.js';
import { startRelay, startSignaling } from '../harness/servers.js';
import { roomUrl } from '../harness/tab.js';

const PROBE = readFileSync(new URL('../harness/probe.js', import.meta.url), 'utf8');
const LIFETIME_SECONDS = 20;
const SECONDS = Number(process.env.CREDENTIALS_SECONDS ?? 50);
/** What an eye takes for a break. */
const BREAK_MS = 1_000;

for (const [name, open] of /** @type {const} */ ([['Chromium', openChromium], ['Firefox', openFirefox]])) {
  scenario(`in ${name} a relayed call outlives its credentials without a visible break`, async (stage) => {
    const { relay, pages } = await relayedCall(stage, open);
    const allocated = async () => (await relay.metrics()).sum('turn_relay_allocations_started_total');
    const before = await allocated();
    const end = Date.now() + SECONDS * 1000;
    const seen = await until('the time to be over', async () => {
      const now = await Promise.all(pages.map(({ seen }) => seen()));
      const pause = Math.max(...now.map(({ longestPause }) => longestPause));
      assert.ok(pause < BREAK_MS, `no frame for ${Math.round(pause)} ms`);
      return Date.now() > end && now;
    }, { deadline: SECONDS * 1000 + 45_000 });
    const figures = seen.map(({ frames, longestPause, late }) => `${frames} frames, longest pause ${Math.round(longestPause)} ms, the page itself was late by ${Math.round(late)} ms in all`);
    stage.say(`${SECONDS} s: ${figures.join('; ')}; ${(await allocated()) - before} allocations more`);
  });

  scenario(`in ${name} a relayed call whose credentials are not renewed breaks when they expire`, async (stage) => {
    const { pages } = await relayedCall(stage, open);
    for (const { page, other } of pages) {
      await page.evaluate((id) => { globalThis.call.peers.get(id).restartIce = () => undefined; }, other);
    }
    const gap = await until('the picture to stop', async () => {
      const now = await Promise.all(pages.map(({ seen }) => seen()));
      const pause = Math.max(...now.map(({ longestPause }) => longestPause));
      return pause > 3 * BREAK_MS && pause;
    }, { deadline: 2 * LIFETIME_SECONDS * 1000 + 45_000 });
    stage.say(`no frame for ${Math.round(gap)} ms`);
  });
}

/**
 * Two pages that see each other through a relay which ends allocations with their credentials.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {typeof openChromium | typeof openFirefox} open
 */
async function relayedCall(stage, open) {
  const secret = await stage.file('secret', 'the secret of both\n');
  const relay = await startRelay(stage, ['--secret-file', secret, '--expire-with-credential']);
  const signaling = await startSignaling(stage, {
    relay: false,
    args: ['--turn-url', `turn:127.0.0.1:${relay.port}?transport=udp`, '--turn-secret-file', secret, '--turn-credential-seconds', `${LIFETIME_SECONDS}`],
  });
  const pages = [];
  for (const number of [1, 2]) pages.push(await join(stage, await open(stage), roomUrl(signaling.port, 'expiring', { relay: 'udp' }), number));
  const ids = await Promise.all(pages.map((page) => until('the page to be in the room', () => page.evaluate(() => globalThis.call?.client?.peer))));
  const watched = await Promise.all(pages.map(async (page, index) => {
    const other = ids[1 - index];
    await page.evaluate(follow, other);
    const seen = () => page.evaluate(() => globalThis.followed);
    await until('the picture to come', async () => (await seen()).frames > 10);
    // What it took to come up does not count.
    await page.evaluate(() => { globalThis.followed.longestPause = 0; });
    return { page, other, seen };
  }));
  return { relay, pages: watched };
}

/**
 * Runs in a page: counts the frames decoded of a peer, and the longest time without one. What a busy machine keeps from the page itself is no pause of the
 * picture and is left out of it.
 * @param {string} id
 */
function follow(id) {
  const LOOK_MS = 100;
  const followed = { frames: 0, longestPause: 0, late: 0 };
  globalThis.followed = followed;
  let [looked, decoded, pause] = [performance.now(), 0, 0];
  const look = async () => {
    const stats = await globalThis.call.peers.get(id)?.connection.getStats();
    const now = performance.now();
    const inbound = stats && [...stats.values()].find(({ type, kind }) => type === 'inbound-rtp' && kind === 'video');
    const late = Math.max(0, now - looked - 2 * LOOK_MS);
    pause += now - looked - late;
    followed.late += late;
    looked = now;
    if (inbound && inbound.framesDecoded !== decoded) {
      followed.frames += Math.max(0, inbound.framesDecoded - decoded);
      decoded = inbound.framesDecoded;
      pause = 0;
    }
    followed.longestPause = Math.max(followed.longestPause, pause);
    setTimeout(look, LOOK_MS);
  };
  void look();
}

/** @param {import('../harness/scenario.js').Stage} stage @param {any} page @param {string} url @param {number} number */
async function join(stage, page, url, number) {
  const script = `globalThis.PROBE_TAB = ${number};\n${PROBE}`;
  await (page.addInitScript ? page.addInitScript({ content: script }) : page.evaluateOnNewDocument(script));
  let said = '';
  page.on('console', (/** @type {any} */ message) => { said += `${message.text()}\n`; });
  stage.onFailure(() => `page ${number} said:\n${said}`);
  await page.goto(url);
  await page.evaluate((/** @type {string} */ name) => {
    const field = /** @type {HTMLInputElement} */ (document.querySelector('#name'));
    field.value = name;
    field.dispatchEvent(new Event('input', { bubbles: true }));
  }, `Page ${number}`);
  await until('the page to let us join', () => page.evaluate(() => {
    const button = /** @type {HTMLButtonElement | null} */ (document.querySelector('#join'));
    if (!button || button.disabled) return false;
    button.click();
    return true;
  }));
  return page;
}
