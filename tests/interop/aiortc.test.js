// aiortc, an independent WebRTC stack in Python, against `turn-relay`.

import { fileURLToPath } from 'node:url';
import { cell } from '../harness/matrix.js';
import { network } from '../harness/network.js';
import { PASSWORD, USER, echoed, relayFor } from './relay.js';

const PYTHON = fileURLToPath(new URL('../.cache/python/bin/python', import.meta.url));
const SCRIPT = fileURLToPath(new URL('./aiortc_call.py', import.meta.url));

for (const transport of ['udp', 'tcp', 'tls']) {
  cell('aiortc, data channel', transport, async (stage) => {
    const relay = await relayFor(stage, transport);
    const result = await echoed(stage, PYTHON, [SCRIPT, network.relay, String(relay.port), transport, USER, PASSWORD], relay.env, 4);
    await relay.allocated(2);
    return result;
  });
}
