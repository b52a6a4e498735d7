// A TCP proxy between a client and a server whose connections the tests can cut, refuse and restore.

import net from 'node:net';
import { once } from 'node:events';

export class Proxy {
  #target;
  #server;
  #cut = false;
  /** @type {Set<net.Socket>} */
  #sockets = new Set();

  /** @param {number} target port on 127.0.0.1 */
  constructor(target) {
    this.#target = target;
    this.#server = net.createServer((client) => this.#accept(client));
  }

  /** Listens on a port of the kernel's choice. */
  async listen() {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return this;
  }

  get port() {
    return /** @type {net.AddressInfo} */ (this.#server.address()).port;
  }

  /** Resets every connection, and each new one, until `restore`. */
  cut() {
    this.#cut = true;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  restore() {
    this.#cut = false;
  }

  async close() {
    this.cut();
    this.#server.close();
  }

  /** @param {net.Socket} client */
  #accept(client) {
    client.on('error', () => {});
    if (this.#cut) {
      client.resetAndDestroy();
      return;
    }
    const server = net.connect(this.#target, '127.0.0.1');
    for (const [from, to] of [[client, server], [server, client]]) {
      this.#sockets.add(from);
      from.setNoDelay(true);
      from.on('error', () => to.destroy());
      from.on('close', () => { this.#sockets.delete(from); to.destroy(); });
    }
    client.pipe(server);
    server.pipe(client);
  }
}
