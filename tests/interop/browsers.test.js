// Chromium and Firefox against `turn-relay`: a picture each way between two peer connections that may use relayed candidates alone.

import assert from 'node:assert/strict';
import { openChromium, openFirefox } from '../harness/browsers.js';
import { cell } from '../harness/matrix.js';
import { network } from '../harness/network.js';
import { PASSWORD, USER, relayFor } from './relay.js';
import { relayedCall } from './relayed_page.js';

const FRAMES = 50;
const DEADLINE_MS = 60_000;

for (const transport of ['udp', 'tcp', 'tls']) {
  // Firefox sends indications, and no channel.
  for (const [client, open, channels] of /** @type {const} */ ([['Chromium, video', openChromium, true], ['Firefox, video', openFirefox, false]])) {
    cell(client, transport, async (stage) => {
      const relay = await relayFor(stage, transport);
      // A name: Firefox does not even connect to an IP by TLS.
      const url = `${transport === 'tls' ? 'turns' : 'turn'}:${network.name}:${relay.port}?transport=${transport === 'udp' ? 'udp' : 'tcp'}`;
      const page = await open(stage, relay.tls?.authority);
      const result = await page.evaluate(relayedCall, { server: { urls: url, username: USER, credential: PASSWORD }, frames: FRAMES, deadline: DEADLINE_MS });
      assert.equal(result.failure, undefined, JSON.stringify(result));
      assert.ok(Math.min(...result.decoded) >= FRAMES);
      assert.deepEqual(result.types, ['relay']);
      assert.deepEqual(result.protocols, [transport]);
      await relay.allocated(2);
      return `${result.decoded.join('+')} frames`;
    }, { channels });
  }
}
