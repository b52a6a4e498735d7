// GStreamer's webrtcbin against `turn-relay`: a picture from one to another. Its ICE is libnice, which knows no TURN over TLS: what it is told to reach
// with "turns" it speaks to in plain text.

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { cell } from '../harness/matrix.js';
import { network } from '../harness/network.js';
import { PASSWORD, USER, relayFor } from './relay.js';

const SCRIPT = fileURLToPath(new URL('./webrtcbin_call.py', import.meta.url));
// Debian's, which finds Debian's bindings.
const PYTHON = '/usr/bin/python3';

for (const transport of ['udp', 'tcp']) {
  cell('libnice in GStreamer webrtcbin, video', transport, async (stage) => {
    const relay = await relayFor(stage, transport);
    const client = stage.program(PYTHON, [SCRIPT, network.relay, String(relay.port), transport, USER, PASSWORD]);
    assert.equal(await client.exit(), 0);
    const frames = Number(/^(\d+) frames decoded, candidates: relay$/m.exec(client.output)?.[1]);
    assert.ok(frames >= 50);
    await relay.allocated(2);
    return `${frames} frames`;
  });
}
