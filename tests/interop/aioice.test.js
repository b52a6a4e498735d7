// aioice, an independent client in Python, against `turn-relay`.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { cell } from '../harness/matrix.js';
import { network } from '../harness/network.js';
import { PASSWORD, USER, echoed, relayFor } from './relay.js';

const PYTHON = fileURLToPath(new URL('../.cache/python/bin/python', import.meta.url));
const SCRIPT = fileURLToPath(new URL('./aioice_echo.py', import.meta.url));

for (const transport of ['udp', 'tcp', 'tls']) {
  cell('aioice, echo server, static user', transport, (stage) => echo(stage, transport, [], USER, PASSWORD));

  cell('aioice, echo server, time-limited credential', transport, async (stage) => {
    // As any web application would mint it.
    const username = `${Math.floor(Date.now() / 1000) + 600}:someone`;
    const password = createHmac('sha1', 'shared').update(username).digest('base64');
    return echo(stage, transport, ['--secret-file', await stage.file('secret', 'an older one\nshared\n')], username, password);
  });

  cell('aioice, expired credential', transport, async (stage) => {
    const username = `${Math.floor(Date.now() / 1000) - 1}:someone`;
    const password = createHmac('sha1', 'shared').update(username).digest('base64');
    const relay = await relayFor(stage, transport, ['--secret-file', await stage.file('secret', 'shared\n')]);
    const client = stage.program(PYTHON, [SCRIPT, network.relay, String(relay.port), transport, username, password], { env: relay.env });
    assert.notEqual(await client.exit(), 0);
    assert.match(client.output, /401/);
    assert.equal((await relay.metrics()).sum('turn_relay_allocations'), 0);
    return '401';
  }, { channels: false });
}

/** @param {import('../harness/scenario.js').Stage} stage @param {string} transport @param {string[]} args @param {string} username @param {string} password */
async function echo(stage, transport, args, username, password) {
  const relay = await relayFor(stage, transport, args);
  const result = await echoed(stage, PYTHON, [SCRIPT, network.relay, String(relay.port), transport, username, password], relay.env, 4);
  await relay.allocated(1);
  return result;
}
