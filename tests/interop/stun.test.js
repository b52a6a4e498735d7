// coturn's STUN clients against `turn-relay`: the mapped address, and NAT behaviour discovery (RFC 5780) with a second address.

import assert from 'node:assert/strict';
import { cell } from '../harness/matrix.js';
import { freePort } from '../harness/ports.js';
import { startRelay } from '../harness/servers.js';

const ALTERNATE = '127.0.0.2';

for (const server of ['127.0.0.1', '::1']) {
  cell(`stunclient, ${server}`, 'udp', async (stage) => {
    const relay = await startRelay(stage, ['--user', 'a:b'], [server]);
    const client = stage.program('turnutils_stunclient', ['-p', String(relay.port), server]);
    const [, address] = await client.printed(/UDP reflexive addr: (\S+):\d+/);
    assert.equal(address, server);
    return address;
  });
}

// It asks for an answer from the other address and port to the next port, and then for the same to its own port with padding.
cell('stunclient -f, NAT behaviour discovery', 'udp', async (stage) => {
  const { primary, alternate, flags } = await discovering(stage);
  const client = stage.program('turnutils_stunclient', ['-f', ...flags]);
  assert.equal(await client.exit(), 0);
  assert.deepEqual(origins(client.output), [primary, alternate, alternate]);
  assert.equal(client.output.match(/UDP reflexive addr: 127\.0\.0\.1:\d+/g)?.length, 3);
  assert.deepEqual(others(client.output), [alternate, alternate, alternate]);
  return '3 answers';
});

cell('natdiscovery -m -f', 'udp', async (stage) => {
  const { primary, alternate, crossed, flags } = await discovering(stage);
  const client = stage.program('turnutils_natdiscovery', ['-m', '-f', ...flags]);
  assert.equal(await client.exit(), 0);
  // Mapping is asked of both addresses; filtering of the first, which is to answer from the other address and port.
  assert.deepEqual(origins(client.output), [primary, crossed, primary, alternate]);
  assert.match(client.output, /NAT with Endpoint Independent Mapping!/);
  assert.match(client.output, /NAT with Endpoint Independent Filtering!/);
  return '4 answers';
});

/** @param {import('../harness/scenario.js').Stage} stage */
async function discovering(stage) {
  const alternatePort = await freePort(ALTERNATE);
  const relay = await startRelay(stage, ['--user', 'a:b', '--nat-discovery', `${ALTERNATE}:${alternatePort}`]);
  return {
    primary: `127.0.0.1:${relay.port}`,
    alternate: `${ALTERNATE}:${alternatePort}`,
    crossed: `${ALTERNATE}:${relay.port}`,
    flags: ['-p', String(relay.port), '127.0.0.1'],
  };
}

// It prints the first of these lines twice.
/** @param {string} output */
const origins = (output) => answers(output).map((answer) => /Response origin: : (\S+)/.exec(answer)?.[1]);
/** @param {string} output */
const others = (output) => answers(output).map((answer) => /Other addr: : (\S+)/.exec(answer)?.[1]);
/** @param {string} output */
const answers = (output) => output.split(/RFC 5780 response \d+/).slice(1);
