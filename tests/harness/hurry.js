// A person who joins as soon as the page lets them, and how long they wait for the picture of somebody who was there before: by the page's own clock, which
// starts with the navigation.

import assert from 'node:assert/strict';
import { roomUrl } from './tab.js';

const SOON_MS = 3_000;

/** @param {import('./tab.js').Tab} tab that shows nothing yet @param {number} port @param {string} room */
export async function joinAtOnce(tab, port, room) {
  await tab.page.addInitScript(hurry);
  await tab.page.goto(roomUrl(port, room, { name: `Tab ${tab.number}` }));
  return tab.joined();
}

/** Checks that the first picture came within three seconds. @param {import('./scenario.js').Stage} stage @param {import('./tab.js').Tab} tab */
export async function cameSoon(stage, tab) {
  const { joined, welcome, picture } = await tab.run(() => globalThis.marks);
  stage.say(`ms after the navigation began: joined ${joined}, in the room ${welcome}, first picture ${picture}`);
  assert.ok(picture < SOON_MS, `the first picture came after ${picture} ms`);
}

/** Runs in the page before anything else. */
function hurry() {
  const marks = /** @type {Record<string, number>} */ ({});
  globalThis.marks = marks;
  const mark = (/** @type {string} */ name) => { marks[name] ??= Math.round(performance.now()); };
  const look = () => {
    // The page has put our name from the address there, so it listens to the button too.
    const ready = /** @type {HTMLInputElement | null} */ (document.querySelector('#name'))?.value !== '';
    const button = /** @type {HTMLButtonElement | null} */ (document.querySelector('#join'));
    if (button && ready && marks.joined === undefined) {
      mark('joined');
      button.click();
    }
    if (globalThis.call?.client?.peer) mark('welcome');
    const video = document.querySelector('[data-peer] video');
    if (video === null) setTimeout(look, 5);
    else /** @type {HTMLVideoElement} */ (video).requestVideoFrameCallback(() => mark('picture'));
  };
  look();
}
