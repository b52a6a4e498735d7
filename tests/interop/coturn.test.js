// coturn's clients against `turn-relay`: everything that they send must come back.

import assert from 'node:assert/strict';
import { after, describe } from 'node:test';
import { freePort } from '../harness/ports.js';
import { scenario } from '../harness/scenario.js';
import { startRelay } from '../harness/servers.js';

const SECRET = 'known to coturn and to the relay';

// What follows "turnutils_uclient" in its manual: -t TCP to the relay, -s Send indications instead of channels, -y client to client, -X and -x the family
// of the relayed address, -c one allocation instead of an even port and the reserved next one, -g DONT-FRAGMENT, -D padded ChannelData over UDP too,
// -G extra requests.
const TRANSPORTS = { udp: [], tcp: ['-t'] };
const DATA = { channels: [], indications: ['-s'] };
const PEERS = { 'echo server': [], 'client to client': ['-y'] };
const FAMILIES = {
  'IPv4': { server: '127.0.0.1', peer: '127.0.0.1', options: ['-X'] },
  'IPv6': { server: '::1', peer: '::1', options: ['-x'] },
};
const EXTRAS = {
  'one allocation': ['-c'],
  'DONT-FRAGMENT': ['-g'],
  'padded ChannelData': ['-D'],
  'extra requests': ['-G'],
  'messages of 1300 bytes': ['-l', '1300'],
};

const rows = [];

// Most of a run of uclient is waiting.
describe('coturn', { concurrency: 6 }, () => {
  for (const [family, { server, peer, options }] of Object.entries(FAMILIES)) {
    for (const [transport, leg] of Object.entries(TRANSPORTS)) {
      for (const [data, mode] of Object.entries(DATA)) {
        for (const [against, target] of Object.entries(PEERS)) {
          scenario(`uclient over ${transport} with ${data}, ${against}, relayed over ${family}`, (stage) =>
            uclient(stage, [family, transport, data, against], server, peer, [...options, ...leg, ...mode, ...target]));
        }
      }
      for (const [extra, option] of Object.entries(EXTRAS)) {
        scenario(`uclient over ${transport} with ${extra}, relayed over ${family}`, (stage) =>
          uclient(stage, [family, transport, extra, 'echo server'], server, peer, [...options, ...leg, ...option]));
      }
    }
  }

  for (const [transport, leg] of Object.entries(TRANSPORTS)) {
    scenario(`uclient asks over IPv4 and ${transport} for an IPv6 relayed address`, (stage) =>
      uclient(stage, ['4 to 6', transport, 'channels', 'echo server'], '127.0.0.1', '::1', ['-x', ...leg]));
  }

  scenario('uclient may not reach a peer on loopback that was not allowed', async (stage) => {
    const relay = await startRelay(stage, ['--secret-file', await stage.file('secret', `${SECRET}\n`)]);
    const client = stage.program('turnutils_uclient', ['-X', '-e', '127.0.0.1', '-p', String(relay.port), '-u', 'user', '-W', SECRET, '127.0.0.1']);
    await client.printed(/403/);
  });

  for (const server of ['127.0.0.1', '::1']) {
    scenario(`stunclient gets its mapped address from ${server}`, async (stage) => {
      const relay = await startRelay(stage, ['--user', 'a:b'], [server]);
      const client = stage.program('turnutils_stunclient', ['-p', String(relay.port), server]);
      const [, address] = await client.printed(/UDP reflexive addr: (\S+):\d+/);
      assert.equal(address, server);
    });
  }

  after(() => {
    console.log(['family', 'client', 'data', 'peer', 'sent', 'back'].join(' | '));
    for (const row of rows.sort()) console.log(row.join(' | '));
  });
});

/**
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string[]} row of the matrix
 * @param {string} server
 * @param {string} peer
 * @param {string[]} options
 */
async function uclient(stage, row, server, peer, options) {
  const secret = await stage.file('secret', `${SECRET}\n`);
  const relay = await startRelay(stage, [
    '--secret-file', secret, '--allow-peer', '127.0.0.0/8', '--allow-peer', '::1/128', '--relay-address', '127.0.0.1', '--relay-address', '::1',
  ], ['127.0.0.1', '::1']);
  const peerPort = await freePort(peer);
  stage.program('turnutils_peer', ['-L', peer, '-p', String(peerPort)]);

  const client = stage.program('turnutils_uclient', [
    ...options, '-e', peer, '-r', String(peerPort), '-p', String(relay.port), '-u', 'user', '-W', SECRET, server,
  ]);
  const code = await client.exit();
  const total = /start_mclient: tot_send_bytes ~ (\d+), tot_recv_bytes ~ (\d+)\s*$/m.exec(client.output);
  rows.push([...row, total?.[1] ?? 'none', total?.[2] ?? 'none']);
  assert.equal(code, 0);
  assert.ok(total, 'it came to its end');
  assert.ok(Number(total[1]) >= 500, 'it sent');
  assert.equal(total[2], total[1], 'everything sent came back');
}
