// A scripted client of the signaling protocol `signaling.v1` (signaling/PROTOCOL.md): it does what it is told, well-behaved or not.

import { createHash, randomBytes } from 'node:crypto';
import WebSocket from 'ws';
import { until } from './scenario.js';

/** A fresh secret in the protocol's form. */
export const freshSecret = () => randomBytes(32).toString('base64url');

/** The peer id that the protocol derives from a room and a secret. @param {string} room @param {string} secret */
export const peerId = (room, secret) =>
  createHash('sha256').update(`signaling.v1\0${room}\0${secret}`).digest('base64url').slice(0, 22);

export class Client {
  /** All frames received and not yet taken by `next`. @type {any[]} */
  frames = [];
  /** Set once the connection is closed. @type {{ code: number, reason: string } | undefined} */
  closed;
  /** Highest sequence number received in order. */
  received = 0;
  /** The last sequence number used. */
  sent = 0;
  /** @type {any} */
  welcome;
  #answersPings = true;

  /**
   * @param {import('./scenario.js').Stage} stage
   * @param {number} port of the signaling server on 127.0.0.1
   * @param {string} room
   * @param {{ secret?: string, origin?: string, answersPings?: boolean }} [options]
   */
  constructor(stage, port, room, { secret = freshSecret(), origin, answersPings = true } = {}) {
    this.secret = secret;
    this.room = room;
    this.#answersPings = answersPings;
    this.socket = new WebSocket(`ws://127.0.0.1:${port}/v1/rooms/${room}/ws`, 'signaling.v1', { origin, perMessageDeflate: false });
    this.socket.on('message', (data) => this.#take(JSON.parse(data.toString())));
    this.socket.on('close', (code, reason) => { this.closed = { code, reason: reason.toString() }; });
    this.socket.on('error', () => {});
    stage.atEnd(async () => this.socket.terminate());
  }

  /** Connects and says hello. @param {ConstructorParameters<typeof Client>} args */
  static async join(...args) {
    const client = new Client(...args);
    await client.open();
    await client.hello();
    return client;
  }

  open() {
    return until('the WebSocket to open', () => {
      if (this.closed) throw new Error(`closed with ${this.closed.code} ${this.closed.reason}`);
      return this.socket.readyState === WebSocket.OPEN;
    }, { pause: 5 });
  }

  /** Says hello and waits for the welcome. @param {Record<string, unknown>} [more] */
  async hello(more = {}) {
    this.write({ type: 'hello', seq: 0, ack: this.received, secret: this.secret, instance: 'scripted', ...more });
    this.welcome = await this.next('welcome');
    return this.welcome;
  }

  /** Sends a sequenced frame. @param {Record<string, unknown>} frame */
  send(frame) {
    this.sent += 1;
    this.write({ ...frame, seq: this.sent, ack: this.received });
  }

  /** Sends a candidate that only tests understand. @param {string} to @param {unknown} candidate */
  signal(to, candidate) {
    this.send({ type: 'signal', to, negotiation: 'scripted', candidate });
  }

  /** Sends anything. @param {unknown} frame JSON text is made of everything but strings and buffers */
  write(frame) {
    const raw = typeof frame === 'string' || Buffer.isBuffer(frame);
    this.socket.send(raw ? frame : JSON.stringify(frame));
  }

  /** Waits for the next frame of this type and takes it, leaving the others. @param {string} type @returns {Promise<any>} */
  next(type) {
    return until(`a ${type} frame`, () => {
      const index = this.frames.findIndex((frame) => frame.type === type);
      if (index >= 0) return this.frames.splice(index, 1)[0];
      if (this.closed) throw new Error(`closed with ${this.closed.code} ${this.closed.reason} while a ${type} was awaited`);
    }, { pause: 5 });
  }

  /** Waits for the close. */
  end() {
    return until('the connection to be closed', () => this.closed, { pause: 5 });
  }

  /** @param {any} frame */
  #take(frame) {
    if (frame.seq > 0) {
      if (frame.seq <= this.received) return;
      this.received = frame.seq;
    }
    if (frame.type === 'ping') {
      if (this.#answersPings) this.write({ type: 'pong', seq: 0, ack: this.received });
      return;
    }
    this.frames.push(frame);
  }
}
