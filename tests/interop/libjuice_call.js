// Connects two peer connections of libdatachannel, whose ICE is libjuice, that may use relayed candidates alone, and has a data channel echo.
//
// usage: libjuice_call.js HOST PORT USERNAME PASSWORD
// Prints what came back; exits non-zero if anything is missing or different. libjuice knows TURN over UDP only.

import assert from 'node:assert/strict';
import { once, EventEmitter } from 'node:events';
import datachannel from 'node-datachannel';

const DEADLINE_MS = 30_000;
const PAYLOADS = ['a', 'four', 'seven77', '0123456789abcdef'.repeat(640)].map((text) => Buffer.from(text));

setTimeout(() => { console.error(`not done within ${DEADLINE_MS} ms`); process.exit(1); }, DEADLINE_MS).unref();
if (process.env.JUICE_LOG) datachannel.initLogger('Verbose');

const [host, port, username, password] = process.argv.slice(2);
const iceServers = [{ hostname: host, port: Number(port), username, password, relayType: 'TurnUdp' }];
const [one, two] = ['one', 'two'].map((name) => new datachannel.PeerConnection(name, { iceServers, iceTransportPolicy: 'relay' }));
for (const [from, to] of [[one, two], [two, one]]) {
  from.onLocalDescription((sdp, type) => to.setRemoteDescription(sdp, type));
  from.onLocalCandidate((candidate, mid) => {
    assert.match(candidate, / typ relay/);
    to.addRemoteCandidate(candidate, mid);
  });
}
two.onDataChannel((channel) => channel.onMessage((message) => channel.sendMessageBinary(message)));

const events = new EventEmitter();
const channel = one.createDataChannel('echo');
channel.onMessage((message) => events.emit('message', message));
channel.onOpen(() => events.emit('open'));
await once(events, 'open');
for (const payload of PAYLOADS) {
  const received = once(events, 'message');
  channel.sendMessageBinary(payload);
  const [back] = await received;
  assert.ok(payload.equals(back));
  console.log(`${back.length} bytes came back, local candidate: ${one.getSelectedCandidatePair()?.local.candidate}`);
  assert.equal(one.getSelectedCandidatePair()?.local.type, 'relay');
}
one.close();
two.close();
datachannel.cleanup();
