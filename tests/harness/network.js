// Where the tests run the relay, and how clients reach it: on loopback; or, under tests/harness/in-driver, on a host of its own behind one Ethernet link,
// with XDP in the driver at its end.

import { existsSync } from 'node:fs';

/** A process on the relay's host; none: the relay is on this one. */
const holder = process.env.TESTS_RELAY_HOST;

/** Whether the relay is started with XDP on. */
export const inDriver = holder !== undefined;

/**
 * `name`, `relay` and `relay6` lead to the relay. It relays from `relayed`, too, and answers from `alternate`, too. Clients, and peers that are none, have
 * `client` and `client6`, and proxies connect from `proxy`; all that may be peers is in `peers`.
 */
export const network = inDriver
  ? {
    name: 'relay.test', relay: '10.83.0.1', relay6: 'fd83::1', relayed: '10.83.0.2', alternate: '10.83.0.2',
    client: '10.83.0.9', client6: 'fd83::9', proxy: '10.83.0.10', peers: ['10.83.0.0/24', 'fd83::/64'],
  }
  : {
    name: 'localhost', relay: '127.0.0.1', relay6: '::1', relayed: '127.0.0.2', alternate: '127.0.0.2',
    client: '127.0.0.1', client6: '::1', proxy: '127.0.0.9', peers: ['127.0.0.0/8', '::1/128'],
  };

/**
 * How a program is run on the relay's host.
 * @param {string} program
 * @param {string[]} args
 * @returns {[string, string[]]}
 */
export function onRelayHost(program, args) {
  if (holder === undefined) return [program, args];
  if (!existsSync(`/proc/${holder}`)) throw new Error(`TESTS_RELAY_HOST=${holder}: there is no such process; tests/harness/in-driver sets it`);
  return ['nsenter', ['--target', holder, '--net', program, ...args, '--xdp', 'clients/native']];
}
