// An HTTP proxy of the kind that stands in the way of WebSockets: it refuses them, does not answer them, or lets them open and then passes nothing on, and
// it may hold an answer back until it is complete.

import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';

export class WebProxy {
  /** @type {'pass' | 'refuse' | 'ignore' | 'swallow'} */
  websockets = 'pass';
  /** Whether event streams are passed on as they come, or only once they have ended. @type {'pass' | 'hold'} */
  streams = 'pass';
  #target;
  #server;
  /** @type {Set<net.Socket>} */
  #sockets = new Set();

  /** @param {number} target port on 127.0.0.1 */
  constructor(target) {
    this.#target = target;
    this.#server = http.createServer((request, response) => this.#forward(request, response));
    this.#server.on('upgrade', (request, client, head) => this.#upgrade(request, /** @type {net.Socket} */ (client), head));
    this.#server.on('connection', (socket) => this.#keep(socket));
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

  async close() {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  /** @param {http.IncomingMessage} request @param {http.ServerResponse} response */
  #forward(request, response) {
    const { method, url, headers } = request;
    const onward = http.request({ host: '127.0.0.1', port: this.#target, method, path: url, headers, agent: false }, async (answer) => {
      if (this.streams === 'hold' && answer.headers['content-type'] === 'text/event-stream') {
        const chunks = await answer.toArray().catch(() => []);
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        response.end(Buffer.concat(chunks));
        return;
      }
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      response.flushHeaders();
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  }

  /** @param {http.IncomingMessage} request @param {net.Socket} client @param {Buffer} head */
  #upgrade(request, client, head) {
    if (this.websockets === 'refuse') {
      client.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
      return;
    }
    if (this.websockets === 'ignore') {
      client.resume();
      return;
    }
    const server = net.connect(this.#target, '127.0.0.1');
    this.#keep(server);
    client.on('close', () => server.destroy());
    server.on('close', () => client.destroy());
    const headers = request.rawHeaders.map((text, index) => (index % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join('');
    server.write(`GET ${request.url} HTTP/1.1\r\n${headers}\r\n`);
    if (this.websockets === 'swallow') {
      // The answer to the handshake is all that ever gets through.
      server.once('data', (answer) => client.write(answer.subarray(0, answer.indexOf('\r\n\r\n') + 4)));
      server.on('data', () => undefined);
      client.resume();
      return;
    }
    server.write(head);
    client.pipe(server);
    server.pipe(client);
  }

  /** @param {net.Socket} socket */
  #keep(socket) {
    this.#sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#sockets.delete(socket));
  }
}
