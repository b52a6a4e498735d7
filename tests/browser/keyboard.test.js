// Nobody needs a mouse to join and to hang up.

import assert from 'node:assert/strict';
import { scenario, until } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

scenario('a person joins and hangs up by keyboard alone', async (stage) => {
  const signaling = await startSignaling(stage);
  const browser = await startBrowser(stage);
  const other = await (await browser.tab(roomUrl(signaling.port, 'keyboard'))).join();
  const tab = await browser.tab(roomUrl(signaling.port, 'keyboard'));

  await reach(tab, 'name');
  await tab.page.keyboard.type('Keyboard');
  await reach(tab, 'join');
  await tab.page.keyboard.press('Enter');
  await tab.joined();
  await inCall([other, tab], 'direct');
  await reach(tab, 'hangup');
  await tab.page.keyboard.press('Enter');

  await until('the other tab to be alone', async () => (await other.tiles()).length === 0);
  assert.equal(other.received.findLast((frame) => frame.type === 'peer_left').reason, 'bye');
});

/** Presses Tab until the element with this id has the focus. @param {import('../harness/tab.js').Tab} tab @param {string} id */
async function reach(tab, id) {
  await tab.page.locator(`#${id}`).waitFor({ state: 'visible' });
  const passed = [];
  for (let presses = 0; presses < 60; presses += 1) {
    const focused = await tab.run(() => document.activeElement?.id || document.activeElement?.tagName || '');
    if (focused === id) return;
    passed.push(focused);
    await tab.page.keyboard.press('Tab');
  }
  assert.fail(`#${id} cannot be reached by Tab; the focus went over ${passed.join(' ')}`);
}
