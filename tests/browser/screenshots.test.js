// Pictures of the page for people to look at, on a desktop and on a phone: tests/.cache/screenshots. What is checked is only that nothing sticks out.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { scenario, until } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

const FOLDER = fileURLToPath(new URL('../.cache/screenshots/', import.meta.url));

const SCREENS = {
  desktop: { viewport: { width: 1280, height: 800 } },
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};
const NAMES = ['Ada', 'Grace', '유진'];

for (const [screen, options] of Object.entries(SCREENS)) {
  scenario(`the page fits a ${screen} before the call, with one other and with two others`, async (stage) => {
    mkdirSync(FOLDER, { recursive: true });
    const signaling = await startSignaling(stage);
    const browser = await startBrowser(stage, { colorScheme: 'light', ...options });
    const url = roomUrl(signaling.port, 'garden-table');
    const tabs = [];
    for (const name of NAMES) {
      const tab = await browser.tab(url, { picture: 'scene' });
      if (tabs.length === 0) await picture(tab, `${screen}-before.png`);
      tabs.push(await tab.join(name));
      if (tabs.length === 1) continue;
      await inCall(tabs, 'direct');
      await tabs[0].receivesMediaOf(tab);
      await picture(tabs[0], `${screen}-${tabs.length}-people.png`);
    }
  });
}

/** @param {import('../harness/tab.js').Tab} tab @param {string} name */
async function picture(tab, name) {
  await tab.page.locator('video:visible').first().waitFor();
  await until('the notes to be gone', async () => (await tab.page.getByText(/ joined$/).filter({ visible: true }).count()) === 0);
  await tab.page.screenshot({ path: FOLDER + name });
  const [content, window] = await tab.run(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(content <= window, `the page is ${content} wide in a window of ${window}`);
}
