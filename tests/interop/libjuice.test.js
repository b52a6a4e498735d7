// libjuice, which libdatachannel uses for ICE, against `turn-relay`.

import { fileURLToPath } from 'node:url';
import { cell } from '../harness/matrix.js';
import { network } from '../harness/network.js';
import { PASSWORD, USER, echoed, relayFor } from './relay.js';

const SCRIPT = fileURLToPath(new URL('./libjuice_call.js', import.meta.url));

cell('libjuice in libdatachannel, data channel', 'udp', async (stage) => {
  const relay = await relayFor(stage, 'udp');
  const result = await echoed(stage, process.execPath, [SCRIPT, network.relay, String(relay.port), USER, PASSWORD], relay.env, 4);
  await relay.allocated(2);
  return result;
});
