// coturn's STUN clients against `turn-relay`: the mapped address, and NAT behaviour discovery (RFC 5780) with a second address.

import assert from 'node:assert/strict';
import { cell } from '../harness/matrix.js';
import { network } from '../harness/network.js';
import { freePort } from '../harness/ports.js';
import { startRelay } from '../harness/servers.js';

for (const [family, server, own] of [['IPv4', network.relay, network.client], ['IPv6', network.relay6, network.client6]]) {
  cell(`stunclient, ${family}`, 'udp', async (stage) => {
    const relay = await startRelay(stage, ['--user', 'a:b'], [server]);
    const client = stage.program('turnutils_stunclient', ['-p', String(relay.port), server]);
    const [, address] = await client.printed(/UDP reflexive addr: (\S+):\d+/);
    assert.equal(address, own);
    return address;
  }, { channels: false });
}

// It asks for an answer from the other address and port to the next port, and then for the same to its own port with padding.
cell('stunclient -f, NAT behaviour discovery', 'udp', async (stage) => {
  const { primary, alternate, flags } = await discovering(stage);
  const client = stage.program('turnutils_stunclient', ['-f', ...flags]);
  assert.equal(await client.exit(), 0);
  assert.deepEqual(origins(client.output), [primary, alternate, alternate]);
  assert.equal(client.output.split(`UDP reflexive addr: ${network.client}:`).length, 1 + 3);
  assert.deepEqual(others(client.output), [alternate, alternate, alternate]);
  return '3 answers';
}, { channels: false });

cell('natdiscovery -m -f', 'udp', async (stage) => {
  const { primary, alternate, crossed, flags } = await discovering(stage);
  const client = stage.program('turnutils_natdiscovery', ['-m', '-f', ...flags]);
  assert.equal(await client.exit(), 0);
  // Mapping is asked of both addresses; filtering of the first, which is to answer from the other address and port.
  assert.deepEqual(origins(client.output), [primary, crossed, primary, alternate]);
  assert.match(client.output, /NAT with Endpoint Independent Mapping!/);
  assert.match(client.output, /NAT with Endpoint Independent Filtering!/);
  return '4 answers';
}, { channels: false });

/** @param {import('../harness/scenario.js').Stage} stage */
async function discovering(stage) {
  const alternatePort = await freePort(network.alternate);
  const relay = await startRelay(stage, ['--user', 'a:b', '--nat-discovery', `${network.alternate}:${alternatePort}`]);
  return {
    primary: `${network.relay}:${relay.port}`,
    alternate: `${network.alternate}:${alternatePort}`,
    crossed: `${network.alternate}:${relay.port}`,
    flags: ['-p', String(relay.port), network.relay],
  };
}

// It prints the first of these lines twice.
/** @param {string} output */
const origins = (output) => answers(output).map((answer) => /Response origin: : (\S+)/.exec(answer)?.[1]);
/** @param {string} output */
const others = (output) => answers(output).map((answer) => /Other addr: : (\S+)/.exec(answer)?.[1]);
/** @param {string} output */
const answers = (output) => output.split(/RFC 5780 response \d+/).slice(1);
