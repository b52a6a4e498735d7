// Bytes that no client should send to `turn-relay`: nothing but silence or the RFC's error comes back, and it goes on serving.

import assert from 'node:assert/strict';
import { createHash, randomBytes, randomInt } from 'node:crypto';
import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { watchMemory } from '../harness/memory.js';
import { network } from '../harness/network.js';
import { scenario, until } from '../harness/scenario.js';
import { startRelay } from '../harness/servers.js';

const MIB = 1024 * 1024;
const COOKIE = 0x2112a442;
const BINDING = 0x0001;
const ALLOCATE = 0x0003;
const REQUESTED_TRANSPORT_UDP = Buffer.from([0x00, 0x19, 0x00, 0x04, 17, 0, 0, 0]);
/** Far more than tables of a bounded size need, far less than what was sent. */
const GROWTH_BYTES = 24 * MIB;

scenario('random datagrams get silence or a STUN error', (stage) => datagrams(stage, function* (random) {
  for (let i = 0; i < 20_000; i += 1) yield random(i % 1500);
}));

scenario('random bytes behind a STUN header get silence or a STUN error', (stage) => datagrams(stage, function* (random) {
  for (let i = 0; i < 20_000; i += 1) {
    const body = random((i % 300) * 4);
    const type = random(2).readUInt16BE() & 0x3fff;
    // A Binding request may well be answered with success.
    yield stun(type === BINDING ? ALLOCATE : type, body);
  }
}));

scenario('truncated STUN requests get silence or a STUN error', (stage) => datagrams(stage, function* () {
  const request = stun(ALLOCATE, REQUESTED_TRANSPORT_UDP);
  for (let length = 0; length < request.length; length += 1) yield request.subarray(0, length);
  // The length in the header says more, or less, than there is.
  for (let claimed = 0; claimed < 200; claimed += 1) {
    const wrong = Buffer.from(request);
    wrong.writeUInt16BE(claimed === REQUESTED_TRANSPORT_UDP.length ? 0xffff : claimed, 2);
    yield wrong;
  }
}));

scenario('datagrams of the largest size get silence or a STUN error', (stage) => datagrams(stage, function* (random) {
  for (let i = 0; i < 200; i += 1) {
    yield random(65_507);
    yield stun(ALLOCATE, random(65_480));
    yield Buffer.concat([Buffer.from([0x40, i, 0xff, 0xdf]), random(65_503)]);
  }
}));

scenario('random bytes over TCP end that connection or are ignored, and cost a bounded amount', async (stage) => {
  const relay = await startRelay(stage, ['--user', 'name:password']);
  const grownWithin = await watchMemory(stage, relay.program);
  const random = seeded(stage);
  for (let i = 0; i < 300; i += 1) {
    const socket = await connect(stage, relay.port);
    const head = [random(20), stun(ALLOCATE, Buffer.alloc(0), 0xfffc), Buffer.from([0x40, 0, 0xff, 0xff])][i % 3];
    socket.write(Buffer.concat([head, random(100_000)]));
    // The kernel has all of it, or the relay has closed.
    await until('the bytes to be gone', () => socket.destroyed || socket.writableLength === 0, { pause: 1 });
    socket.destroy();
  }
  await stillServes(stage, relay);
  await grownWithin(GROWTH_BYTES);
});

scenario('connections that say nothing are closed', async (stage) => {
  const relay = await startRelay(stage, ['--user', 'name:password']);
  const sockets = await Promise.all(Array.from({ length: 20 }, () => connect(stage, relay.port)));
  await until('the relay to close them', () => sockets.every((socket) => socket.destroyed || socket.readableEnded), { deadline: 90_000 });
  await stillServes(stage, relay);
});

/**
 * Sends datagrams and looks at each answer.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {(random: (length: number) => Buffer) => Generator<Buffer>} make
 */
async function datagrams(stage, make) {
  const relay = await startRelay(stage, ['--user', 'name:password']);
  const grownWithin = await watchMemory(stage, relay.program);
  const socket = await udp(stage, relay.port);
  const wrong = [];
  let answers = 0;
  socket.on('message', (answer) => {
    answers += 1;
    if (!isStunError(answer)) wrong.push(answer.toString('hex').slice(0, 80));
  });
  let sent = 0;
  for (const datagram of make(seeded(stage))) {
    await new Promise((resolve) => socket.send(datagram, resolve));
    sent += 1;
    // In step with the relay, so that it gets them all.
    if (sent % 50 === 0) await binding(stage, relay.port);
  }
  await stillServes(stage, relay);
  assert.deepEqual(wrong, []);
  stage.say(`${sent} datagrams, ${answers} answers, each a STUN error`);
  await grownWithin(GROWTH_BYTES);
}

/** A STUN message. @param {number} type @param {Buffer} body @param {number} [length] what the header says, if it lies */
function stun(type, body, length = body.length) {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(type, 0);
  header.writeUInt16BE(length, 2);
  header.writeUInt32BE(COOKIE, 4);
  randomBytes(12).copy(header, 8);
  return Buffer.concat([header, body]);
}

/** An error response (RFC 8489 section 6: class 0b11). @param {Buffer} answer */
const isStunError = (answer) => answer.length >= 20 && (answer.readUInt16BE(0) & 0xc110) === 0x0110 && answer.readUInt32BE(4) === COOKIE;

/** Binding over UDP and over TCP is answered. @param {import('../harness/scenario.js').Stage} stage @param {{ port: number, program: import('../harness/program.js').Program }} relay */
async function stillServes(stage, relay) {
  await binding(stage, relay.port);
  const socket = await connect(stage, relay.port);
  socket.write(stun(BINDING, Buffer.alloc(0)));
  const [answer] = await once(socket, 'data');
  assert.equal(answer.readUInt16BE(0), 0x0101);
  socket.destroy();
  assert.ok(relay.program.running);
  assert.doesNotMatch(relay.program.output, /panicked/);
}

/** Sends Binding requests until one is answered. @param {import('../harness/scenario.js').Stage} stage @param {number} port */
async function binding(stage, port) {
  const socket = dgram.createSocket('udp4');
  socket.connect(port, network.relay);
  await once(socket, 'connect');
  let answered = false;
  socket.on('message', (answer) => { answered ||= answer.readUInt16BE(0) === 0x0101; });
  socket.on('error', () => {});
  // As a client does (RFC 8489 section 6.2.1): a datagram may be lost where a flood has filled the buffer.
  await until('a Binding response', () => answered || (socket.send(stun(BINDING, Buffer.alloc(0))), false), { pause: 10 });
  socket.close();
}

/** @param {import('../harness/scenario.js').Stage} stage @param {number} port */
async function udp(stage, port) {
  const socket = dgram.createSocket('udp4');
  socket.connect(port, network.relay);
  await once(socket, 'connect');
  socket.on('error', () => {});
  stage.atEnd(async () => { socket.close(); });
  return socket;
}

/** @param {import('../harness/scenario.js').Stage} stage @param {number} port @returns {Promise<net.Socket>} */
async function connect(stage, port) {
  const socket = net.connect(port, network.relay);
  await once(socket, 'connect');
  socket.on('error', () => {});
  socket.on('end', () => {});
  socket.resume();
  stage.atEnd(async () => { socket.destroy(); });
  return socket;
}

/** A generator of bytes whose seed is printed; SEED=n repeats it. @param {import('../harness/scenario.js').Stage} stage @returns {(length: number) => Buffer} */
function seeded(stage) {
  const seed = process.env.SEED ?? String(randomInt(2 ** 32));
  stage.say(`SEED=${seed}`);
  let count = 0;
  return (length) => {
    count += 1;
    return createHash('shake256', { outputLength: Math.max(length, 1) }).update(`${seed}:${count}`).digest().subarray(0, length);
  };
}
