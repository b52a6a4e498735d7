// A relay for one foreign client, and the check that the client came by the transport that it was meant to.

import assert from 'node:assert/strict';
import { certificates } from '../harness/certificates.js';
import { network } from '../harness/network.js';
import { startRelay } from '../harness/servers.js';

export const USER = 'someone';
export const PASSWORD = 'a password';
export const REALM = 'example.org';

/**
 * Starts a relay that `transport` leads to, with a static user. Peers are other clients of it; those where the clients are, are allowed as well. It does not relay
 * from the address that clients send from, so that two of them reach each other through both their allocations or not at all.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} transport
 * @param {string[]} [args]
 */
export async function relayFor(stage, transport, args = []) {
  const secure = transport === 'tls' || transport === 'dtls';
  const tls = secure ? await certificates(stage) : undefined;
  const relay = await startRelay(stage, [
    '--user', `${USER}:${PASSWORD}`, '--relay-address', network.relayed, '--allow-peer', `${network.client}/32`,
    ...(tls ? ['--tls-cert', tls.certificate, '--tls-key', tls.key] : []), ...args,
  ]);
  return {
    ...relay,
    tls,
    /** Where OpenSSL, Go and others look for the authorities that they trust. */
    env: tls ? { SSL_CERT_FILE: tls.authority } : {},

    /** @param {number} least */
    allocated: (least) => allocatedOver(relay, transport, least),
  };
}

/**
 * Checks that at least so many allocations were made, all of them over `transport`.
 * @param {{ metrics: () => Promise<import('../harness/metrics.js').Metrics> }} relay
 * @param {string} transport
 * @param {number} least
 */
export async function allocatedOver(relay, transport, least) {
  const counted = await relay.metrics();
  const count = counted.sum('turn_relay_allocations_started_total', { transport });
  assert.ok(count >= least, `${count} allocations over ${transport}`);
  assert.equal(counted.sum('turn_relay_allocations_started_total'), count, 'allocations over all transports');
}

/**
 * Runs a client program of ours to its end and checks that it said `times` times that bytes came back.
 * @param {import('../harness/scenario.js').Stage} stage
 * @param {string} command
 * @param {string[]} args
 * @param {Record<string, string>} env
 * @param {number} times
 * @returns {Promise<string>} the cell of the matrix
 */
export async function echoed(stage, command, args, env, times) {
  const client = stage.program(command, args, { env });
  assert.equal(await client.exit(), 0);
  const back = [...client.output.matchAll(/^(\d+) bytes came back/gm)].map(([, bytes]) => Number(bytes));
  assert.equal(back.length, times, 'so many payloads came back');
  return `${back.reduce((sum, bytes) => sum + bytes)} bytes`;
}
