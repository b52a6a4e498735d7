// Starts the two binaries on ports found free and waits until they say that they are ready.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { metrics } from './metrics.js';
import { inDriver, network, onRelayHost } from './network.js';
import { freePort } from './ports.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The path of a binary: of a release build, unless TESTS_PROFILE=debug says otherwise while the tests are being written. @param {'signaling' | 'turn-relay'} name */
export function binary(name) {
  const path = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), process.env.TESTS_PROFILE ?? 'release', name);
  if (!existsSync(path)) throw new Error(`${path} is missing; run: cargo build --release -p signaling -p turn-relay`);
  return path;
}

/** A running signaling server, on the same ports over all its restarts. */
export class Signaling {
  /** @type {import('./program.js').Program | undefined} */
  program;
  #stage;
  #args;

  /** @param {import('./scenario.js').Stage} stage @param {{ host: string, port: number, admin: number, relay: number, args: string[] }} options */
  constructor(stage, { host, port, admin, relay, args }) {
    this.#stage = stage;
    this.port = port;
    this.relay = relay;
    this.adminUrl = `http://127.0.0.1:${admin}`;
    this.#args = ['--listen', `${host}:${port}`, '--admin', `127.0.0.1:${admin}`, ...args];
  }

  /** Starts it, or starts it again after `kill`. */
  async start() {
    this.program = this.#stage.program(binary('signaling'), this.#args);
    await this.program.answers(`${this.adminUrl}/readyz`);
    return this;
  }

  kill() {
    return this.program?.kill('SIGKILL');
  }

  metrics() {
    return metrics(`${this.adminUrl}/metrics`);
  }
}

/**
 * A signaling server with its embedded relay on a port of its own, unless `relay` is false.
 * @param {import('./scenario.js').Stage} stage
 * @param {{ args?: string[], relay?: boolean, host?: string }} [options] `host` is the IP that both listen on
 */
export async function startSignaling(stage, { args = [], relay = true, host = '127.0.0.1' } = {}) {
  const [port, admin, relayPort] = [await freePort(host), await freePort(), await freePort(host)];
  const relayArgs = relay ? ['--relay-listen', `${host}:${relayPort}`] : [];
  return new Signaling(stage, { host, port, admin, relay: relayPort, args: [...relayArgs, ...args] }).start();
}

/**
 * A `turn-relay` process.
 * @param {import('./scenario.js').Stage} stage
 * @param {string[]} args credentials and whatever else the scenario is about
 * @param {string[]} [addresses] IPs to listen on; one free port is shared by all
 */
export async function startRelay(stage, args, addresses = [network.relay]) {
  const [port, admin] = [await freePort(...addresses), await freePort(network.relay)];
  const listen = addresses.flatMap((ip) => ['--listen', `${ip.includes(':') ? `[${ip}]` : ip}:${port}`]);
  const [command, all] = onRelayHost(binary('turn-relay'), [...listen, '--admin', `${network.relay}:${admin}`, '--realm', 'example.org', ...args]);
  const program = stage.program(command, all);
  const adminUrl = `http://${network.relay}:${admin}`;
  await program.answers(`${adminUrl}/readyz`);
  if (inDriver) assert.match(program.output, /XDP is on, native, at clients\/native: IPv4 and IPv6/);
  const relay = { port, program, adminUrl, metrics: () => metrics(`${adminUrl}/metrics`) };
  stage.relays.push(relay);
  return relay;
}
