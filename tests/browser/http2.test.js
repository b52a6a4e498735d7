// Chromium on a server that offers HTTP/2: the page, and its WebSocket (RFC 8441), come over one connection.

import assert from 'node:assert/strict';
import { scenario } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

scenario('two tabs are in a call over HTTP/2, their WebSockets too', async (stage) => {
  const signaling = await startSignaling(stage, { args: ['--tls', 'self-signed', '--http2'] });
  const browser = await startBrowser(stage, { ignoreHTTPSErrors: true });
  const url = roomUrl(signaling.port, 'http2', {}, 'https://localhost');
  const [one, two] = [await (await browser.tab(url)).join(), await (await browser.tab(url)).join()];

  await inCall([one, two], 'direct');
  for (const tab of [one, two]) {
    assert.equal(await tab.run(() => /** @type {any} */ (performance.getEntriesByType('navigation')[0]).nextHopProtocol), 'h2');
  }
  const metrics = await signaling.metrics();
  assert.equal(metrics.sum('signaling_websockets_total', { http: '2' }), 2);
  assert.equal(metrics.sum('signaling_websockets_total', { http: '1.1' }), 0);
});
