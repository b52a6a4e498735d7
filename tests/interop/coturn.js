// coturn's client `turnutils_uclient` against `turn-relay`: everything that it sends must come back. Each transport is a test file of its own.

import assert from 'node:assert/strict';
import net from 'node:net';
import { describe } from 'node:test';
import { certificates } from '../harness/certificates.js';
import { cell } from '../harness/matrix.js';
import { inDriver, network } from '../harness/network.js';
import { freePort } from '../harness/ports.js';
import { until } from '../harness/scenario.js';
import { startRelay } from '../harness/servers.js';
import { allocatedOver } from './relay.js';

const SECRET = 'known to coturn and to the relay';

// What follows "turnutils_uclient" in its manual: -t TCP to the relay, -s Send indications instead of channels, -y client to client, -X and -x the family
// of the relayed address, -c one allocation instead of an even port and the reserved next one, -g DONT-FRAGMENT, -D padded ChannelData over UDP too,
// -S TLS over TCP and DTLS over UDP, -E who must have signed the certificate, -G extra requests, -Z an address of each family, -N a channel number drawn from all 16 bits,
// -R messages with bytes changed on their way, -T TCP allocations (RFC 6062) and clients that connect to each other through them, -P the same with peers
// that connect, -J tokens instead of a password (RFC 7635), -M another socket for the same allocation, several times in a run (RFC 8016).
// Left to itself -S draws DTLS 1.0 for every other session; no suite of TLS 1.2 fits that, so -F makes it draw again.
const TRANSPORTS = { udp: [], tcp: ['-t'], tls: ['-t', '-S'], dtls: ['-S', '-F', 'ECDHE-ECDSA-AES128-GCM-SHA256'] };
const DATA = { channels: [], indications: ['-s'] };
const PEERS = { 'echo server': [], 'client to client': ['-y'] };
const MOVES = { 'echo server': ['-X'], 'client to client': ['-y', '-X'], 'relayed over IPv6': ['-x'], 'dual allocation': ['-Z'] };
const FAMILIES = {
  IPv4: { server: network.relay, peer: network.client, options: ['-X'] },
  IPv6: { server: network.relay6, peer: network.client6, options: ['-x'] },
};
const EXTRAS = {
  'DONT-FRAGMENT': ['-g'],
  'padded ChannelData': ['-D'],
  'extra requests': ['-G'],
  'messages of 1300 bytes': ['-l', '1300'],
};
/** The keys that -J has built in, cut to the size of a key as it does. */
const TOKEN_KEYS = ['north 01234567890123456789012345678901', 'union 1234567890123456', 'oldempire 12345678901234567890123456789012']
  .map((line) => line.split(' ')).map(([id, key]) => `${id} ${Buffer.from(key).toString('base64')}\n`).join('');
/** Of five moves three in four end by a fault of uclient's own; 60 in a row are no accident. */
const MOVING_RUNS = 60;
/** After that -R is given up: most of its runs end only when they are killed. */
const CORRUPTING_MS = 8_000;

/** @param {keyof typeof TRANSPORTS} transport between the client and the relay */
export function coturn(transport) {
  // Most of a run of uclient is waiting; but a driver has room for one relay.
  describe(`coturn, ${transport}`, { concurrency: inDriver ? 1 : 6 }, () => {
    for (const [family, { server, peer, options }] of Object.entries(FAMILIES)) {
      for (const [data, mode] of Object.entries(DATA)) {
        for (const [against, target] of Object.entries(PEERS)) {
          cell(`uclient, ${data}, ${against}, relayed over ${family}`, transport, (stage) =>
            uclient(stage, transport, server, peer, [...options, ...mode, ...target]), { channels: data === 'channels' });
        }
      }
      for (const [extra, option] of Object.entries(EXTRAS)) {
        cell(`uclient, ${extra}, relayed over ${family}`, transport, (stage) => uclient(stage, transport, server, peer, [...options, ...option]));
      }
      cell(`uclient, one allocation, relayed over ${family}`, transport, (stage) => uclient(stage, transport, server, peer, [...options, '-c'], 500));
    }
    cell('uclient over IPv4, relayed over IPv6', transport, (stage) => uclient(stage, transport, network.relay, network.client6, ['-x']));
    for (const [data, mode] of Object.entries(DATA)) {
      // One of its clients, 500 bytes: this option implies -c.
      cell(`uclient, dual allocation, ${data}`, transport, async (stage) => {
        const { relay, flags } = await start(stage, transport, network.client);
        const result = await everythingBack(stage, ['-Z', ...mode, ...flags, network.relay], 500);
        assert.ok((await relay.metrics()).sum('turn_relay_allocations_started_total', { family: 'both' }) > 0, 'it has an address of each family');
        return result;
      }, { channels: data === 'channels' });
    }
    if (['tcp', 'tls'].includes(transport)) {
      cell('uclient, TCP allocations', transport, (stage) => uclient(stage, transport, network.relay, network.client, ['-T', '-X']));
    }
    if (transport === 'tcp') cell('uclient, TCP allocations, connections from peers', transport, (stage) => passive(stage, transport));
    for (const [what, options] of Object.entries(MOVES)) {
      cell(`uclient, mobility, ${what}`, transport, (stage) => moving(stage, transport, options));
    }
    if (['tcp', 'tls'].includes(transport)) {
      for (const version of [1, 2]) {
        cell(`uclient behind HAProxy, PROXY protocol v${version}`, transport, (stage) => proxied(stage, transport, version));
      }
    }
    cell('uclient, access token', transport, (stage) => token(stage, transport));
    cell('uclient, channel numbers out of range', transport, (stage) => anyChannel(stage, transport), { channels: 'perhaps' });
    cell('uclient, corrupted messages', transport, (stage) => corrupted(stage, transport));
    cell('uclient, a peer that is not allowed', transport, async (stage) => {
      const { flags } = await start(stage, transport, network.client, []);
      const client = stage.program('turnutils_uclient', ['-X', ...flags, network.relay]);
      await client.printed(/403/);
      return '403';
    }, { channels: false });
  });
}

/**
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} transport
 * @param {string} server
 * @param {string} peer
 * @param {string[]} options
 * @param {number} [least] bytes that it must have sent
 */
async function uclient(stage, transport, server, peer, options, least = 1000) {
  const { relay, flags } = await start(stage, transport, peer);
  const result = await everythingBack(stage, [...options, ...flags, server], least);
  await allocatedOver(relay, transport, 1);
  return result;
}

/**
 * Clients whose allocations are connected to by plain peers of the same process. It sends from both ends and counts what came to the clients, so half of what
 * it sent comes back; so it does from coturn's own server.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} transport
 */
async function passive(stage, transport) {
  const { relay, flags } = await start(stage, transport, network.client);
  const client = stage.program('turnutils_uclient', ['-P', '-X', '-L', network.client, ...flags, network.relay]);
  assert.equal(await client.exit(), 0);
  const total = /start_mclient: tot_send_bytes ~ (\d+), tot_recv_bytes ~ (\d+)\s*$/m.exec(client.output);
  assert.deepEqual(total?.slice(1), ['1000', '500']);
  const counted = await relay.metrics();
  for (const direction of ['to_peer', 'to_client']) assert.equal(counted.sum('turn_relay_relayed_bytes_total', { direction }), 500, direction);
  return '500 bytes each way';
}

/**
 * Clients that go on from another port, with a ticket. Over TLS and DTLS uclient 4.6.1 closes one in four of the connections that it leaves before it opens the
 * next, and then once more (startuclient.c keeps the pointer that SSL_free was given). By then the memory is the new session's, which it so shuts down and cannot send
 * on ("send: Success"), or it crashes. With an SSL_free that frees nothing 24 of 24 runs came to their end, and 11 of 24 without. So a run that ends like that is no run.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} transport
 * @param {string[]} options
 */
async function moving(stage, transport, options) {
  const { relay, flags } = await start(stage, transport, options.includes('-x') ? network.client6 : network.client, undefined, ['--mobility', '--log-level', 'debug']);
  const mayFault = ['tls', 'dtls'].includes(transport);
  for (let run = 1; ; run += 1) {
    const { length: before } = relay.program.output;
    const client = stage.program('turnutils_uclient', ['-M', ...options, ...flags, network.relay]);
    const code = await client.exit();
    const faulty = code === null || /^send: Success$/m.test(client.output);
    if (mayFault && faulty && run < MOVING_RUNS) continue;
    const result = cameBack(client, code, 500);
    const moves = relay.program.output.slice(before).match(/allocation moved/g)?.length ?? 0;
    assert.ok(moves > 0, 'an allocation moved');
    return `${result}, ${moves} moves`;
  }
}

/**
 * A real proxy in front, which connects from an address of its own: the relay must know clients by theirs.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} transport
 * @param {number} version of the PROXY protocol
 */
async function proxied(stage, transport, version) {
  const { relay, flags } = await start(stage, transport, network.client, undefined, ['--proxy-protocol-from', network.proxy, '--log-addresses']);
  const port = await freePort();
  const configuration = [
    'defaults', '  mode tcp', '  timeout connect 10s', '  timeout client 60s', '  timeout server 60s',
    'listen relay', `  bind 127.0.0.1:${port}`,
    `  server relay ${network.relay}:${relay.port} source ${network.proxy} ${version === 1 ? 'send-proxy' : 'send-proxy-v2'}`, '',
  ];
  const proxy = stage.program('haproxy', ['-db', '-f', await stage.file('haproxy.cfg', configuration.join('\n'))]);
  await until('HAProxy', () => proxy.running && connects(port));
  // Of two ports the last counts.
  const result = await everythingBack(stage, ['-X', ...flags, '-p', String(port), '127.0.0.1'], 1000);
  await allocatedOver(relay, transport, 1);
  const clients = [...relay.program.output.matchAll(/allocation started.*client=\S*?(127\.0\.0\.\d+):/g)].map(([, address]) => address);
  assert.ok(clients.length > 0);
  assert.deepEqual([...new Set(clients)], ['127.0.0.1'], 'clients, not the proxy');
  return result;
}

/** @param {number} port @returns {Promise<boolean>} */
const connects = (port) => new Promise((resolve) => {
  const socket = net.connect(port, '127.0.0.1', () => { socket.destroy(); resolve(true); });
  socket.on('error', () => resolve(false));
});

/**
 * Tokens instead of a password; it signs with the first 16 of the 20 bytes of the key in them, and draws another key for each request. So a port that it
 * reserves is not its own a moment later, and -c reserves none.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} transport
 */
async function token(stage, transport) {
  const { relay, flags } = await start(stage, transport, network.client, undefined, [
    '--oauth-server-name', 'turn.example.org', '--oauth-key-file', await stage.file('keys', TOKEN_KEYS),
  ]);
  const result = await everythingBack(stage, ['-J', '-c', '-X', ...flags, network.relay], 500);
  await allocatedOver(relay, transport, 1);
  return result;
}

/** Either the number happens to lie in the range and all is well, or it does not and 400 ends the run. @param {import('../harness/scenario.js').Stage} stage @param {string} transport */
async function anyChannel(stage, transport) {
  const { flags } = await start(stage, transport, network.client);
  let refused = 0;
  // Three of four numbers are out of range: that 40 in a row are not is no accident.
  for (let run = 0; run < 40 && !refused; run += 1) {
    const client = stage.program('turnutils_uclient', ['-N', '-X', '-c', ...flags, network.relay]);
    const code = await client.exit();
    if (/channel bind: error 400/.test(client.output)) refused += 1;
    else assert.equal(code, 0);
  }
  assert.equal(refused, 1);
  return '400';
}

/**
 * Overwrites bytes in a tenth of the messages, checksum included, and waits for an answer to each. A wrong FINGERPRINT is met with silence (RFC 8489 section
 * 6.3), so it repeats the message with the same wrong bytes and waits for good; it does so against coturn's own server, too. What is to be seen is that
 * the relay is none the worse for it.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} transport
 */
async function corrupted(stage, transport) {
  const { flags } = await start(stage, transport, network.client);
  const args = ['-X', '-c', ...flags, network.relay];
  const corrupting = ['-n', '100', '-m', '4'];
  const clients = [1, 2].map(() => stage.program('turnutils_uclient', ['-R', ...corrupting, ...args]));
  // It sends no two runs alike, and some of them come to an end.
  await Promise.race([Promise.all(clients.map((client) => client.exit())), new Promise((resolve) => setTimeout(resolve, CORRUPTING_MS))]);
  await Promise.all(clients.map((client) => client.kill()));
  const unharmed = await everythingBack(stage, args, 500);
  return `survived, then ${unharmed}`;
}

/** @param {import('../harness/scenario.js').Stage} stage @param {string[]} args @param {number} least */
async function everythingBack(stage, args, least) {
  const client = stage.program('turnutils_uclient', args);
  return cameBack(client, await client.exit(), least);
}

/** @param {import('../harness/program.js').Program} client that ended @param {number | null} code @param {number} least */
function cameBack(client, code, least) {
  const total = /start_mclient: tot_send_bytes ~ (\d+), tot_recv_bytes ~ (\d+)\s*$/m.exec(client.output);
  assert.equal(code, 0);
  assert.ok(total, 'it came to its end');
  assert.ok(Number(total[1]) >= least, `it sent ${total[1]} bytes, not ${least}`);
  assert.equal(total[2], total[1], 'everything sent came back');
  return `${total[2]} bytes`;
}

/**
 * A relay with an address of each family, an echo server, and what the client must be told of them.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} transport
 * @param {string} peer
 * @param {string[]} [allowed] peers
 * @param {string[]} [settings] of the relay
 */
async function start(stage, transport, peer, allowed = network.peers, settings = []) {
  const secure = transport === 'tls' || transport === 'dtls';
  const tls = secure ? await certificates(stage) : undefined;
  const relay = await startRelay(stage, [
    '--secret-file', await stage.file('secret', `${SECRET}\n`), ...allowed.flatMap((network) => ['--allow-peer', network]),
    '--relay-address', network.relay, '--relay-address', network.relay6, ...(tls ? ['--tls-cert', tls.certificate, '--tls-key', tls.key] : []), ...settings,
  ], [network.relay, network.relay6]);
  const peerPort = await freePort(peer);
  stage.program('turnutils_peer', ['-L', peer, '-p', String(peerPort)]);
  const leg = [...TRANSPORTS[/** @type {keyof typeof TRANSPORTS} */ (transport)], ...(tls ? ['-E', tls.authority] : [])];
  const flags = [...leg, '-e', peer, '-r', String(peerPort), '-p', String(relay.port), '-u', 'user', '-W', SECRET];
  return { relay, flags };
}
