// pion, an independent stack in Go, against `turn-relay`: its TURN client, and its peer connections.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cell } from '../harness/matrix.js';
import { network } from '../harness/network.js';
import { PASSWORD, REALM, USER, echoed, relayFor } from './relay.js';

const SOURCE = fileURLToPath(new URL('./pion', import.meta.url));
const CACHE = fileURLToPath(new URL('../.cache/go', import.meta.url));
const PROGRAM = `${CACHE}/pion`;

// Debian installs Go libraries as source; nothing is downloaded.
await promisify(execFile)('go', ['build', '-o', PROGRAM, '.'], {
  cwd: SOURCE,
  env: { ...process.env, GOPATH: '/usr/share/gocode', GO111MODULE: 'off', GOFLAGS: '-buildvcs=false', GOCACHE: `${CACHE}/build` },
});

for (const transport of ['udp', 'tcp', 'tls', 'dtls']) {
  for (const [client, mode, times, allocations] of /** @type {const} */ ([['pion/turn, echo server', 'echo', 12, 1], ['pion/webrtc, data channel', 'call', 4, 2]])) {
    cell(client, transport, async (stage) => {
      const relay = await relayFor(stage, transport);
      const result = await echoed(stage, PROGRAM, [mode, network.relay, String(relay.port), transport, USER, PASSWORD, REALM], relay.env, times);
      await relay.allocated(allocations);
      return result;
    });
  }
}
