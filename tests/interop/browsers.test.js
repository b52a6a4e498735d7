// Chromium and Firefox against `turn-relay`: a picture each way between two peer connections that may use relayed candidates alone.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';
import { cell } from '../harness/matrix.js';
import { PASSWORD, USER, relayFor } from './relay.js';
import { relayedCall } from './relayed_page.js';

const run = promisify(execFile);
const FRAMES = 50;
const DEADLINE_MS = 60_000;

for (const transport of ['udp', 'tcp', 'tls']) {
  for (const [client, open] of /** @type {const} */ ([['Chromium, video', openChromium], ['Firefox, video', openFirefox]])) {
    cell(client, transport, async (stage) => {
      const relay = await relayFor(stage, transport);
      // A name: Firefox does not even connect to an IP by TLS.
      const url = `${transport === 'tls' ? 'turns' : 'turn'}:localhost:${relay.port}?transport=${transport === 'udp' ? 'udp' : 'tcp'}`;
      const page = await open(stage, relay.tls?.authority);
      const result = await page.evaluate(relayedCall, { server: { urls: url, username: USER, credential: PASSWORD }, frames: FRAMES, deadline: DEADLINE_MS });
      assert.equal(result.failure, undefined, JSON.stringify(result));
      assert.ok(Math.min(...result.decoded) >= FRAMES);
      assert.deepEqual(result.types, ['relay']);
      assert.deepEqual(result.protocols, [transport]);
      await relay.allocated(2);
      return `${result.decoded.join('+')} frames`;
    });
  }
}

/** @param {import('../harness/scenario.js').Stage} stage @param {string} [authority] that the browser trusts */
async function openChromium(stage, authority) {
  const home = await stage.folder();
  if (authority) await trust(`${home}/.pki/nssdb`, authority);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    env: { ...process.env, HOME: home },
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
      '--autoplay-policy=no-user-gesture-required'],
  });
  stage.atEnd(() => browser.close());
  return browser.newPage();
}

/** @param {import('../harness/scenario.js').Stage} stage @param {string} [authority] that the browser trusts */
async function openFirefox(stage, authority) {
  const profile = await stage.folder();
  if (authority) await trust(profile, authority);
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
    userDataDir: profile,
    extraPrefsFirefox: {
      'media.peerconnection.ice.loopback': true,
      'media.autoplay.default': 0,
      // No downloads while a test runs.
      'media.gmp-manager.updateEnabled': false,
    },
  });
  stage.atEnd(() => browser.close());
  return browser.newPage();
}

/** Makes a certificate database, in the form that both browsers read, with one trusted authority. @param {string} folder @param {string} authority a PEM file */
async function trust(folder, authority) {
  await mkdir(folder, { recursive: true });
  await run('certutil', ['-N', '-d', `sql:${folder}`, '--empty-password']);
  await run('certutil', ['-A', '-d', `sql:${folder}`, '-n', 'authority of a test', '-t', 'C,,', '-i', authority]);
}
