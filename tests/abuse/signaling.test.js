// Hostile and broken clients of `signaling`: each gets its documented answer, the server's memory stays flat, and another room does not notice.

import assert from 'node:assert/strict';
import { Client } from '../harness/client.js';
import { watchMemory } from '../harness/memory.js';
import { scenario, until } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';

const MIB = 1024 * 1024;

// What the server may keep for one session whatever others do: 256 KiB to replay, as much again on its way out, one frame of 64 KiB each way.
const SESSION_BYTES = 2 * 256 * 1024 + 2 * 64 * 1024;
/** What the allocator may keep besides. */
const SLACK_BYTES = 16 * MIB;

scenario('a frame that is not JSON is answered with bad_frame and close code 4200', async (stage) => {
  const { port, unharmed } = await server(stage);
  const client = await Client.join(stage, port, 'abused');
  client.write('this is not JSON');
  assert.equal((await client.next('error')).code, 'bad_frame');
  assert.equal((await client.end()).code, 4200);
  await unharmed();
});

scenario('a binary frame is answered with close code 4200', async (stage) => {
  const { port, unharmed } = await server(stage);
  const client = await Client.join(stage, port, 'abused');
  client.write(Buffer.from([0, 1, 2, 3]));
  assert.equal((await client.end()).code, 4200);
  await unharmed();
});

scenario('an unknown type is answered with unknown_type and the connection stays, until there were too many', async (stage) => {
  const { port, unharmed } = await server(stage);
  const [client, other] = [await Client.join(stage, port, 'abused'), await Client.join(stage, port, 'abused')];
  client.send({ type: 'teleport' });
  const error = await client.next('error');
  assert.equal(error.code, 'unknown_type');
  assert.equal(error.re, 1);
  client.signal(other.welcome.peer, 'still here');
  assert.equal((await other.next('signal')).candidate, 'still here');

  while (!client.closed) {
    assert.ok(client.sent < 20, 'the number of unknown types is bounded');
    client.send({ type: 'teleport' });
    await Promise.race([client.next('error').catch(() => {}), client.end()]);
  }
  assert.equal(client.closed.code, 4200);
  await unharmed();
});

scenario('a message of 1 MiB is answered with too_large and close code 4201', async (stage) => {
  const { port, program, unharmed } = await server(stage);
  const grownWithin = await watchMemory(stage, program);
  const client = await Client.join(stage, port, 'abused');
  client.send({ type: 'signal', to: client.welcome.peer, negotiation: 'n', candidate: 'x'.repeat(MIB) });
  assert.equal((await client.end()).code, 4201);
  await unharmed();
  await grownWithin(SESSION_BYTES + SLACK_BYTES);
});

scenario('JSON nested deeper than 32 is answered with close code 4200', async (stage) => {
  const { port, unharmed } = await server(stage);
  const client = await Client.join(stage, port, 'abused');
  const deep = `${'['.repeat(30_000)}${']'.repeat(30_000)}`;
  client.write(`{"type":"signal","seq":1,"ack":0,"to":"${client.welcome.peer}","negotiation":"n","candidate":${deep}}`);
  assert.equal((await client.end()).code, 4200);
  await unharmed();
});

scenario('a gap in the sequence is answered with close code 4200', async (stage) => {
  const { port, unharmed } = await server(stage);
  const client = await Client.join(stage, port, 'abused');
  client.sent = 5;
  client.signal(client.welcome.peer, 'from the future');
  assert.equal((await client.end()).code, 4200);
  await unharmed();
});

scenario('a hello that never comes is answered with close code 4003', async (stage) => {
  const { port, unharmed } = await server(stage);
  const client = new Client(stage, port, 'abused');
  await client.open();
  assert.equal((await client.end()).code, 4003);
  await unharmed();
});

scenario('a hello without a proper secret is answered with close code 4202', async (stage) => {
  const { port, unharmed } = await server(stage);
  const client = new Client(stage, port, 'abused', { secret: 'guessable' });
  await client.open();
  client.write({ type: 'hello', seq: 0, ack: 0, secret: client.secret, instance: 'scripted' });
  assert.equal((await client.end()).code, 4202);
  await unharmed();
});

scenario('a client that does not answer pings is answered with close code 4001', async (stage) => {
  const { port, unharmed } = await server(stage, ['--ping-interval-seconds', '1', '--ping-deadline-seconds', '1']);
  const client = new Client(stage, port, 'abused', { answersPings: false });
  await client.open();
  await client.hello();
  assert.equal((await client.end()).code, 4001);
  await unharmed();
});

scenario('a page of another origin may not connect, the server\'s own page may', async (stage) => {
  const { port, unharmed } = await server(stage);
  const stranger = new Client(stage, port, 'abused', { origin: 'https://evil.example' });
  await assert.rejects(stranger.open());
  await Client.join(stage, port, 'abused', { origin: `http://127.0.0.1:${port}` });
  await unharmed();
});

scenario('a reader that stops reading is closed with code 4002', async (stage) => {
  const { port, unharmed } = await server(stage);
  const { reader, sender } = await stalled(stage, port);
  await until('the server to give the reader up', () => {
    sender.signal(reader.welcome.peer, 'x'.repeat(60_000));
    return sender.frames.some((frame) => frame.type === 'peer_changed' || frame.type === 'peer_left');
  }, { pause: 15 });
  reader.socket.resume();
  assert.equal((await reader.end()).code, 4002);
  await unharmed();
});

scenario('readers that never read cost a bounded amount although more than 64 MiB are sent towards them', async (stage) => {
  const { port, program, unharmed } = await server(stage);
  const pairs = [];
  for (let i = 0; i < 4; i += 1) pairs.push(await stalled(stage, port, `abused-${i}`));
  const grownWithin = await watchMemory(stage, program);

  // Each sender stays under the rate that it is allowed.
  const message = 'x'.repeat(60_000);
  let sent = 0;
  await until('64 MiB to be sent', async () => {
    for (const { reader, sender } of pairs) {
      if (sender.socket.bufferedAmount < MIB) {
        sender.signal(reader.welcome.peer, message);
        sent += message.length;
      }
    }
    return sent > 64 * MIB;
  }, { pause: 11, deadline: 120_000 });
  await until('all to have left for the server', () => pairs.every(({ sender }) => sender.socket.bufferedAmount === 0));
  await unharmed();
  assert.ok(pairs.every(({ sender }) => !sender.closed), 'those who send are not blamed');
  stage.say(`${Math.round(sent / MIB)} MiB sent towards readers that never read`);
  await grownWithin(2 * pairs.length * SESSION_BYTES + SLACK_BYTES);
});

/** A server, and what shows that another room does not notice. @param {import('../harness/scenario.js').Stage} stage @param {string[]} [args] */
async function server(stage, args = []) {
  const { port, program } = await startSignaling(stage, { relay: false, args: ['--no-embedded-relay', ...args] });
  const [one, two] = [await Client.join(stage, port, 'other'), await Client.join(stage, port, 'other')];
  let round = 0;
  const unharmed = async () => {
    round += 1;
    one.signal(two.welcome.peer, { round });
    assert.deepEqual((await two.next('signal')).candidate, { round });
    two.signal(one.welcome.peer, { round });
    assert.deepEqual((await one.next('signal')).candidate, { round });
    assert.equal((await one.next('peer_joined')).peer, two.welcome.peer);
    assert.ok(!one.closed && !two.closed);
    one.frames.push({ type: 'peer_joined', peer: two.welcome.peer });
    assert.deepEqual(one.frames.map((frame) => frame.type).filter((type) => type !== 'ack'), ['peer_joined'], 'nothing else was heard');
  };
  await unharmed();
  return { port, program: /** @type {import('../harness/program.js').Program} */ (program), unharmed };
}

/** A member that has stopped reading, and one that will send to it. @param {import('../harness/scenario.js').Stage} stage @param {number} port @param {string} [room] */
async function stalled(stage, port, room = 'abused') {
  const reader = await Client.join(stage, port, room);
  const sender = await Client.join(stage, port, room);
  reader.socket.pause();
  return { reader, sender };
}
