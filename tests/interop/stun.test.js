// coturn's STUN clients against `turn-relay`.

import assert from 'node:assert/strict';
import { cell } from '../harness/matrix.js';
import { startRelay } from '../harness/servers.js';

for (const server of ['127.0.0.1', '::1']) {
  cell(`stunclient, ${server}`, 'udp', async (stage) => {
    const relay = await startRelay(stage, ['--user', 'a:b'], [server]);
    const client = stage.program('turnutils_stunclient', ['-p', String(relay.port), server]);
    const [, address] = await client.printed(/UDP reflexive addr: (\S+):\d+/);
    assert.equal(address, server);
    return address;
  });
}
