// aioice, an independent client in Python, against `turn-relay`.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { scenario } from '../harness/scenario.js';
import { startRelay } from '../harness/servers.js';

const PYTHON = fileURLToPath(new URL('../.cache/python/bin/python', import.meta.url));
const SCRIPT = fileURLToPath(new URL('./aioice_echo.py', import.meta.url));

if (!existsSync(PYTHON)) test('aioice', { skip: 'its Python environment is missing; tests/run interop makes it' }, () => {});
else {
  for (const transport of ['udp', 'tcp']) {
    scenario(`aioice allocates with a static user and gets its echo over ${transport}`, (stage) =>
      echo(stage, transport, ['--user', 'someone:a password'], 'someone', 'a password'));

    scenario(`aioice allocates with a time-limited credential and gets its echo over ${transport}`, async (stage) => {
      // As any web application would mint it.
      const username = `${Math.floor(Date.now() / 1000) + 600}:someone`;
      const password = createHmac('sha1', 'shared').update(username).digest('base64');
      await echo(stage, transport, ['--secret-file', await stage.file('secret', 'an older one\nshared\n')], username, password);
    });
  }

  scenario('aioice gets no allocation with an expired credential', async (stage) => {
    const username = `${Math.floor(Date.now() / 1000) - 1}:someone`;
    const password = createHmac('sha1', 'shared').update(username).digest('base64');
    const { client, relay } = await start(stage, 'udp', ['--secret-file', await stage.file('secret', 'shared\n')], username, password);
    assert.notEqual(await client.exit(), 0);
    assert.match(client.output, /401/);
    assert.equal((await relay.metrics()).sum('turn_relay_allocations'), 0);
  });
}

/** @param {import('../harness/scenario.js').Stage} stage @param {string} transport @param {string[]} credentials @param {string} username @param {string} password */
async function echo(stage, transport, credentials, username, password) {
  const { client } = await start(stage, transport, credentials, username, password);
  assert.equal(await client.exit(), 0);
  assert.equal(client.output.match(/bytes came back/g)?.length, 4);
}

/** @param {import('../harness/scenario.js').Stage} stage @param {string} transport @param {string[]} credentials @param {string} username @param {string} password */
async function start(stage, transport, credentials, username, password) {
  const relay = await startRelay(stage, [...credentials, '--allow-peer', '127.0.0.0/8']);
  const client = stage.program(PYTHON, [SCRIPT, '127.0.0.1', String(relay.port), transport, username, password]);
  return { client, relay };
}
