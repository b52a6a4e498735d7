// Ports nobody listens on, below the range from which the kernel draws ports for outgoing connections, so that none is taken between finding and use.

import dgram from 'node:dgram';
import net from 'node:net';

const FIRST = 20_000;
/** Test files run at the same time: each draws from a part of its own. */
const PARTS = 8;
const PORTS = 1500;
const part = await claim();
/** Given to somebody before, who may not listen yet, or does so where it cannot be seen from here. @type {Set<number>} */
const given = new Set();

/** An even port free for UDP and TCP on each of `addresses`, by default 127.0.0.1. Programs that take the next one as well, as coturn's do for RTCP, have
 * it for themselves. @param {string[]} addresses @returns {Promise<number>} */
export async function freePort(...addresses) {
  for (;;) {
    const port = FIRST + PORTS * part + 2 * Math.floor(Math.random() * PORTS / 2);
    if (!given.has(port) && await isFree(port, addresses.length > 0 ? addresses : ['127.0.0.1'])) {
      given.add(port);
      return port;
    }
  }
}

/** A part that no other process of this host has, until this process ends. */
async function claim() {
  for (let part = 0; part < PARTS; part++) {
    if (await listens(`\0tests-ports-${part}`)) return part;
  }
  throw new Error(`tests of more than ${PARTS} processes want ports`);
}

/** On an abstract socket, which ends with its process. @param {string} path @returns {Promise<boolean>} */
function listens(path) {
  return new Promise((resolve) => {
    const server = net.createServer().unref();
    server.once('error', () => resolve(false));
    server.listen(path, () => resolve(true));
  });
}

/** @param {number} port @param {string[]} addresses */
async function isFree(port, addresses) {
  for (const address of addresses) {
    if (!(await tcpIsFree(port, address)) || !(await udpIsFree(port, address))) return false;
  }
  return true;
}

/** @param {number} port @param {string} address */
function tcpIsFree(port, address) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', (error) => resolve(isNotOurs(error)));
    server.listen(port, address, () => server.close(() => resolve(true)));
  });
}

/** @param {number} port @param {string} address */
function udpIsFree(port, address) {
  return new Promise((resolve) => {
    const socket = dgram.createSocket(address.includes(':') ? 'udp6' : 'udp4');
    socket.once('error', (error) => resolve(isNotOurs(error)));
    socket.bind(port, address, () => socket.close(() => resolve(true)));
  });
}

/** The address is another host's, where nothing but what the tests start takes ports. @param {NodeJS.ErrnoException} error */
const isNotOurs = (error) => error.code === 'EADDRNOTAVAIL';
