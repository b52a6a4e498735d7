// Chromium and Firefox against `turn-relay`: a picture each way between two peer connections that may use relayed candidates alone.

import assert from 'node:assert/strict';
import { openChromium, openFirefox } from '../harness/browsers.js';
import { cell } from '../harness/matrix.js';
import { PASSWORD, USER, relayFor } from './relay.js';
import { relayedCall } from './relayed_page.js';

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
