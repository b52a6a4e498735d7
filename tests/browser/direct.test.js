// A call between tabs that reach each other: media flows without the relay.

import { inCall, roomUrl, startBrowser } from '../harness/tab.js';
import { scenario } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';

scenario('two tabs of one window see and hear each other directly', (stage) => call(stage, 2, true));

scenario('three tabs see and hear each other directly', (stage) => call(stage, 3, false));

/** @param {import('../harness/scenario.js').Stage} stage @param {number} size @param {boolean} oneWindow */
async function call(stage, size, oneWindow) {
  const signaling = await startSignaling(stage);
  const browser = await startBrowser(stage, { oneWindow });
  const tabs = [];
  for (let i = 0; i < size; i += 1) tabs.push(await (await browser.tab(roomUrl(signaling.port, 'direct'))).join());

  await inCall(tabs, 'direct');
  for (const tab of tabs) {
    for (const other of tabs.filter((each) => each !== tab)) {
      await tab.seesPictureOf(other);
      await tab.receivesMediaOf(other);
    }
  }
}
