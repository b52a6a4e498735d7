// What foreign clients got from the relay, as a matrix client x transport. A row of it is a scenario that leaves a line in a file when it ends, whichever
// way; run as a program this module prints the matrix from that file. Nothing that was not run is in it.

import { appendFileSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { scenario } from './scenario.js';

const RESULTS = fileURLToPath(new URL('../.cache/interop/results.jsonl', import.meta.url));
const TRANSPORTS = ['udp', 'tcp', 'tls', 'dtls'];

/**
 * A scenario that is a cell of the matrix.
 * @param {string} client who, and what it was asked to do
 * @param {string} transport between the client and the relay
 * @param {(stage: import('./scenario.js').Stage) => Promise<string>} body returns what came back, in a few words with a figure
 */
export function cell(client, transport, body) {
  scenario(`${client}, over ${transport}`, async (stage) => {
    let result = 'FAILED';
    try {
      result = await body(stage);
    } finally {
      mkdirSync(dirname(RESULTS), { recursive: true });
      appendFileSync(RESULTS, `${JSON.stringify({ client, transport, result })}\n`);
    }
  });
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
