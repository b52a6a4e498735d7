// turn-client-proto, an independent client in Rust, against `turn-relay`: the one that can sign with SHA-256 and hide its name.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cell } from '../harness/matrix.js';
import { network } from '../harness/network.js';
import { PASSWORD, USER, echoed, relayFor } from './relay.js';

const MANIFEST = fileURLToPath(new URL('./turn-proto/Cargo.toml', import.meta.url));
const TARGET = fileURLToPath(new URL('../.cache/turn-proto', import.meta.url));

await promisify(execFile)('cargo', ['build', '--quiet', '--locked', '--manifest-path', MANIFEST, '--target-dir', TARGET]);

for (const transport of ['udp', 'tcp', 'tls']) {
  row('turn-client-proto, SHA-1', transport, 'sha1', 'name', 'udp', 8);
  row('turn-client-proto, SHA-256', transport, 'sha256', 'name', 'udp', 8);
  row('turn-client-proto, SHA-256 and USERHASH', transport, 'sha256', 'hash', 'udp', 8);
}
for (const transport of ['tcp', 'tls']) row('turn-client-proto, TCP allocation', transport, 'sha256', 'hash', 'tcp', 4);

/** @param {string} client @param {string} transport @param {string} integrity @param {string} naming @param {string} relayed transport @param {number} times */
function row(client, transport, integrity, naming, relayed, times) {
  cell(client, transport, async (stage) => {
    const relay = await relayFor(stage, transport);
    const args = [network.relay, String(relay.port), transport, USER, PASSWORD, integrity, naming, relayed, ...(relay.tls ? [relay.tls.authority] : [])];
    const result = await echoed(stage, `${TARGET}/debug/turn-proto-client`, args, {}, times);
    await relay.allocated(1);
    return result;
  });
}
