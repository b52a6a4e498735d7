// What foreign clients got from the relay, as a matrix client x transport. A row of it is a scenario that leaves a line in a file when it ends, whichever
// way; run as a program this module prints the matrix from that file. Nothing that was not run is in it.

import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inDriver } from './network.js';
import { scenario, until } from './scenario.js';

const RESULTS = fileURLToPath(new URL(`../.cache/interop/results${inDriver ? '-in-driver' : ''}.jsonl`, import.meta.url));
const TRANSPORTS = ['udp', 'tcp', 'tls', 'dtls'];

/**
 * A scenario that is a cell of the matrix.
 * @param {string} client who, and what it was asked to do
 * @param {string} transport between the client and the relay
 * @param {(stage: import('./scenario.js').Stage) => Promise<string>} body returns what came back, in a few words with a figure
 * @param {{ channels?: boolean | 'perhaps' }} [options] whether the client's data is on channels; then those over UDP go through the driver where XDP is
 *   on, which is checked, and all others must not
 */
export function cell(client, transport, body, { channels = true } = {}) {
  scenario(`${client}, over ${transport}`, async (stage) => {
    let result = 'FAILED';
    try {
      const came = await body(stage);
      const driven = inDriver ? `, ${await packetsInDriver(stage, transport === 'udp' && channels)} packets in the driver` : '';
      result = came + driven;
    } finally {
      mkdirSync(dirname(RESULTS), { recursive: true });
      appendFileSync(RESULTS, `${JSON.stringify({ client, transport, result })}\n`);
    }
  });
}

/**
 * How many packets the relays of a stage had relayed in the driver.
 * @param {import('./scenario.js').Stage} stage
 * @param {boolean | 'perhaps'} expected whether there must be some, or none
 */
async function packetsInDriver(stage, expected) {
  const count = async () => {
    const counted = await Promise.all(stage.relays.map((relay) => relay.metrics()));
    return counted.reduce((sum, metrics) => sum + metrics.sum('turn_relay_xdp_packets_total'), 0);
  };
  // What the driver counts is read back twice a second.
  if (expected === true) return until('packets in the driver', async () => await count() || false);
  const packets = await count();
  if (!expected) assert.equal(packets, 0, 'packets in the driver');
  return packets;
}

/** The matrix as text. @param {{ client: string, transport: string, result: string }[]} results */
function matrix(results) {
  const transports = [...TRANSPORTS, ...new Set(results.map(({ transport }) => transport).filter((transport) => !TRANSPORTS.includes(transport)))];
  const clients = [...new Set(results.map(({ client }) => client))].sort();
  const rows = clients.map((client) => [client, ...transports.map((transport) =>
    results.filter((result) => result.client === client && result.transport === transport).map(({ result }) => result).join(', ') || '-')]);
  const table = [['client', ...transports], ...rows];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  return table.map((row) => row.map((text, column) => text.padEnd(widths[column])).join(' | ').trimEnd()).join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const results = readFileSync(RESULTS, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
  const failed = results.filter(({ result }) => result === 'FAILED').length;
  console.log(matrix(results));
  console.log(`${results.length - failed} of ${results.length} got what they asked for; '-': that client was not asked to do that`);
  process.exitCode = failed ? 1 : 0;
}
