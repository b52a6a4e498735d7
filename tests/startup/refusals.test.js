// A binary that cannot run as it was told says so in one line that names the thing, exits with code 2, and has started nothing.

import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { freePort } from '../harness/ports.js';
import { scenario } from '../harness/scenario.js';
import { binary, startRelay, startSignaling } from '../harness/servers.js';

const USER = ['--user', 'name:password'];

scenario('turn-relay without credentials refuses to start', (stage) => refuses(stage, 'turn-relay', [], /credential|--secret-file|--user/));

scenario('turn-relay refuses a TCP port that another program holds', async (stage) => {
  const port = await holdTcp(stage);
  await refuses(stage, 'turn-relay', ['--listen', `127.0.0.1:${port}`, ...USER], new RegExp(`127\\.0\\.0\\.1:${port}`));
});

scenario('turn-relay refuses a UDP port that another program holds', async (stage) => {
  const port = await holdUdp(stage);
  await refuses(stage, 'turn-relay', ['--listen', `127.0.0.1:${port}`, ...USER], new RegExp(`127\\.0\\.0\\.1:${port}`));
});

scenario('turn-relay refuses the port of a second copy of itself', async (stage) => {
  const { port } = await startRelay(stage, USER);
  await refuses(stage, 'turn-relay', ['--listen', `127.0.0.1:${port}`, ...USER], new RegExp(`127\\.0\\.0\\.1:${port}`));
});

scenario('turn-relay refuses a relay address that this machine does not have', (stage) =>
  refuses(stage, 'turn-relay', ['--listen', '127.0.0.1:0', '--relay-address', '198.51.100.1', ...USER], /198\.51\.100\.1/));

scenario('turn-relay names the file, the line and the key that it does not know', async (stage) => {
  const file = await stage.file('relay.toml', 'realm = "example.org"\nuser = ["a:b"]\nlisten_on = "127.0.0.1:0"\n');
  await refuses(stage, 'turn-relay', ['--config', file], /relay\.toml.*\b3\b.*listen_on/);
});

for (const flag of ['--allow-peer', '--deny-peer']) {
  scenario(`turn-relay refuses a bad CIDR of ${flag}`, (stage) =>
    refuses(stage, 'turn-relay', ['--listen', '127.0.0.1:0', ...USER, flag, '10.0.0.0/33'], /10\.0\.0\.0\/33/));
}

scenario('turn-relay refuses a port range that runs backwards', (stage) =>
  refuses(stage, 'turn-relay', ['--listen', '127.0.0.1:0', ...USER, '--port-range', '60000-50000'], /60000-50000/));

scenario('turn-relay names a secret file that is not there', (stage) =>
  refuses(stage, 'turn-relay', ['--listen', '127.0.0.1:0', '--secret-file', '/nowhere/secret'], /\/nowhere\/secret/));

scenario('turn-relay refuses a secret file without a secret', async (stage) => {
  const file = await stage.file('empty-secret', '# nothing\n\n');
  await refuses(stage, 'turn-relay', ['--listen', '127.0.0.1:0', '--secret-file', file], /empty-secret/);
});

scenario('signaling refuses a port that another program holds', async (stage) => {
  const port = await holdTcp(stage);
  await refusesSignaling(stage, ['--listen', `127.0.0.1:${port}`], new RegExp(`127\\.0\\.0\\.1:${port}`));
});

scenario('signaling refuses the port of a second copy of itself', async (stage) => {
  const { port } = await startSignaling(stage);
  await refusesSignaling(stage, ['--listen', `127.0.0.1:${port}`], new RegExp(`127\\.0\\.0\\.1:${port}`));
});

scenario('signaling refuses a taken port of its embedded relay and says which option helps', async (stage) => {
  const port = await holdUdp(stage);
  await refusesSignaling(stage, ['--listen', '127.0.0.1:0', '--relay-listen', `127.0.0.1:${port}`], new RegExp(`127\\.0\\.0\\.1:${port}.*--(relay-listen|no-embedded-relay)`));
});

scenario('signaling refuses the relay port of a second copy of itself', async (stage) => {
  const { relay } = await startSignaling(stage);
  await refusesSignaling(stage, ['--listen', '127.0.0.1:0', '--relay-listen', `127.0.0.1:${relay}`], new RegExp(`127\\.0\\.0\\.1:${relay}`));
});

scenario('signaling names the file, the line and the key that it does not know', async (stage) => {
  const file = await stage.file('signaling.toml', 'listen = "127.0.0.1:0"\n\nlog_levle = "info"\n');
  await refusesSignaling(stage, ['--config', file], /signaling\.toml.*\b3\b.*log_levle/);
});

scenario('signaling refuses a TURN server without the secret shared with it', (stage) =>
  refusesSignaling(stage, ['--listen', '127.0.0.1:0', '--turn-url', 'turn:relay.example.org'], /turn.secret.file/));

scenario('signaling refuses a TURN URL that is none', async (stage) => {
  const secret = await stage.file('secret', 's\n');
  await refusesSignaling(stage, ['--listen', '127.0.0.1:0', '--turn-url', 'http://relay.example.org', '--turn-secret-file', secret], /http:\/\/relay\.example\.org/);
});

for (const [args, names] of /** @type {[string[], RegExp][]} */ ([
  [['--forwarded-from', '10.0.0.7/8'], /did you mean 10\.0\.0\.0\/8/],
  [['--forwarded-from', 'proxy.example'], /forwarded_from: "proxy\.example"/],
  [['--proxy-protocol-from', '10.0.0.7/8'], /proxy_protocol_from: .*did you mean 10\.0\.0\.0\/8/],
  [['--forwarded-from', '10.0.0.7', '--forwarded-header', 'x-real-ip'], /forwarded_header: "x-real-ip"/],
  [['--forwarded-header', 'forwarded'], /forwarded_header.*forwarded_from/],
  [['--http2'], /http2: .*give tls/],
])) {
  scenario(`signaling refuses ${args.join(' ')}`, (stage) => refusesSignaling(stage, ['--listen', '127.0.0.1:0', ...args], names));
}

scenario('signaling names a certificate that is not there', (stage) =>
  refusesSignaling(stage, ['--listen', '127.0.0.1:0', '--tls-cert', '/nowhere/cert.pem', '--tls-key', '/nowhere/key.pem'], /\/nowhere\/cert\.pem/));

scenario('signaling refuses a certificate that is none', async (stage) => {
  const certificate = await stage.file('cert.pem', 'not a certificate\n');
  await refusesSignaling(stage, ['--listen', '127.0.0.1:0', '--tls-cert', certificate, '--tls-key', certificate], /cert\.pem/);
});

scenario('signaling refuses a certificate without its key', async (stage) => {
  const certificate = await stage.file('cert.pem', 'whatever\n');
  await refusesSignaling(stage, ['--listen', '127.0.0.1:0', '--tls-cert', certificate], /tls.key/);
});

for (const [name, args] of /** @type {const} */ ([['turn-relay', USER], ['signaling', []]])) {
  scenario(`what ${name} --print-config prints is a configuration that ${name} --check accepts`, async (stage) => {
    const printer = stage.program(binary(name), ['--print-config']);
    assert.equal(await printer.exit(), 0);
    assert.match(printer.output, /^# ?listen = /m);
    const file = await stage.file('printed.toml', printer.output);
    const checker = stage.program(binary(name), ['--config', file, '--check', ...args]);
    assert.equal(await checker.exit(), 0);
  });
}

/**
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {'signaling' | 'turn-relay'} name
 * @param {string[]} args
 * @param {RegExp} names what the line must name
 */
async function refuses(stage, name, args, names) {
  const program = stage.program(binary(name), args);
  assert.equal(await program.exit(), 2, 'exit code');
  const lines = program.output.trimEnd().split('\n');
  assert.equal(lines.length, 1, 'one line');
  assert.match(lines[0], /^error: /);
  assert.match(lines[0], names);
}

/** Signaling with everything on ports that are free, unless `args` say otherwise. @param {import('../harness/scenario.js').Stage} stage @param {string[]} args @param {RegExp} names */
async function refusesSignaling(stage, args, names) {
  const own = ['--admin', `127.0.0.1:${await freePort()}`];
  if (!args.includes('--relay-listen') && !args.includes('--turn-url')) own.push('--relay-listen', `127.0.0.1:${await freePort()}`);
  await refuses(stage, 'signaling', [...own, ...args], names);
}

/** @param {import('../harness/scenario.js').Stage} stage */
async function holdTcp(stage) {
  const server = net.createServer().listen(await freePort(), '127.0.0.1');
  await once(server, 'listening');
  stage.atEnd(async () => server.close());
  return /** @type {net.AddressInfo} */ (server.address()).port;
}

/** @param {import('../harness/scenario.js').Stage} stage */
async function holdUdp(stage) {
  const socket = dgram.createSocket('udp4');
  socket.bind(await freePort(), '127.0.0.1');
  await once(socket, 'listening');
  stage.atEnd(async () => { socket.close(); });
  return socket.address().port;
}
