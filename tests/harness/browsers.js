// One page of Chromium or Firefox, each in a browser and with a profile of its own. Chromium is driven by Playwright, which takes no Firefox from
// Debian, and Firefox by Puppeteer; `goto` and `evaluate` are the same in both.

import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';

const run = promisify(execFile);

/** @param {import('./scenario.js').Stage} stage @param {string} [authority] that the browser trusts */
export async function openChromium(stage, authority) {
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

/** @param {import('./scenario.js').Stage} stage @param {string} [authority] that the browser trusts */
export async function openFirefox(stage, authority) {
  const profile = await stage.folder();
  if (authority) await trust(profile, authority);
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
    userDataDir: profile,
    extraPrefsFirefox: {
      'media.peerconnection.ice.loopback': true,
      'media.autoplay.default': 0,
      'media.autoplay.blocking_policy': 0,
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
