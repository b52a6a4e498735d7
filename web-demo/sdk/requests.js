// @ts-check
/**
 * Connections for where no WebSocket gets through. Each looks like one and is spread over requests: the server's frames come
 * on an event stream or in the answers of polls, ours go by POST (signaling/PROTOCOL.md, "Without a WebSocket").
 *
 * Whatever goes wrong closes it like a lost WebSocket, with 1006. The session is resumed over the next connection.
 *
 * @typedef {{ code: number, reason: string }} Close
 * @typedef {object} Socket what is used of a WebSocket
 * @property {number} readyState
 * @property {(() => void) | null} onopen
 * @property {((event: { data: unknown }) => void) | null} onmessage
 * @property {((event: { code: number }) => void) | null} onclose
 * @property {(text: string) => void} send
 * @property {() => void} close
 * @typedef {new (url: string, protocols: string[]) => Socket} SocketClass
 */

/** A body holds at most as much as the largest frame. */
const BODY_BYTES = 65_536;
/** The browser lets small requests go on when the page is left, so that a `bye` gets out. */
const KEEPALIVE_BYTES = 8_192;
const PATH = /\/ws$/;

class RequestSocket {
  /** As in a WebSocket: 0 connecting, 1 open, 3 closed. */
  readyState = 0;
  /** @type {() => void} */
  onopen = () => undefined;
  /** @type {(event: { data: unknown }) => void} */
  onmessage = () => undefined;
  /** @type {(event: { code: number }) => void} */
  onclose = () => undefined;

  /** Ends with the connection; what was handed to `send` before goes out all the same. */
  #listening = new AbortController();
  #greeted = false;
  #key = "";
  /** Frames that wait for the request under way. @type {string[]} */
  #queue = [];
  #posting = false;

  /** @param {string} url that of the WebSocket, ws(s)://host/v1/rooms/{room}/ws */
  constructor(url) {
    this.url = url.replace(/^ws/, "http").replace(PATH, "");
    queueMicrotask(() => {
      if (this.readyState !== 0) return;
      this.readyState = 1;
      this.onopen();
    });
  }

  /** @param {string} text one frame; the first is the hello */
  send(text) {
    if (this.readyState !== 1) return;
    if (this.#greeted) {
      this.#queue.push(text);
      if (!this.#posting) void this.#post();
      return;
    }
    this.#greeted = true;
    this.run(text).then(() => this.closed(), () => this.closed());
  }

  close() {
    this.readyState = 3;
    this.#listening.abort();
  }

  /**
   * Says hello and hears what comes until the connection ends.
   * @param {string} _hello
   * @returns {Promise<void>}
   */
  async run(_hello) {
    throw new Error("each kind has its own");
  }

  /**
   * @param {string} route
   * @param {string} body
   * @param {RequestInit} [more]
   */
  async request(route, body, more = { signal: this.#listening.signal }) {
    const headers = new Headers({ "content-type": "text/plain" });
    if (this.#key !== "") headers.set("signaling-connection", this.#key);
    const response = await fetch(`${this.url}/${route}`, { method: "POST", body, headers, cache: "no-store", ...more });
    if (!response.ok) throw new Error(`${route}: ${response.status}`);
    return response;
  }

  /** @param {string} key */
  opened(key) {
    this.#key = key;
  }

  /** @param {string} text */
  heard(text) {
    if (this.readyState === 1) this.onmessage({ data: text });
  }

  /** @param {number} [code] */
  closed(code = 1006) {
    if (this.readyState === 3) return;
    this.close();
    this.onclose({ code });
  }

  /** Sends what waits, one request after the other: two at a time might overtake each other. */
  async #post() {
    this.#posting = true;
    try {
      while (this.#queue.length > 0) {
        const body = this.#batch();
        const response = await this.request("messages", body, { keepalive: body.length < KEEPALIVE_BYTES });
        await response.text();
      }
    } catch {
      this.closed();
    }
    this.#posting = false;
  }

  /** As many of the waiting frames as fit into one body, one a line. */
  #batch() {
    let [body, bytes, count] = ["", 0, 0];
    for (const text of this.#queue) {
      bytes += new TextEncoder().encode(text).length + 1;
      if (count > 0 && bytes > BODY_BYTES) break;
      body += count > 0 ? `\n${text}` : text;
      count += 1;
    }
    this.#queue.splice(0, count);
    return body;
  }
}

/** The server's frames are the events of an answer that does not end. */
export class EventStreamSocket extends RequestSocket {
  /**
   * @override
   * @param {string} hello
   */
  async run(hello) {
    const response = await this.request("events", hello);
    if (response.body === null) throw new Error("an answer without a body");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (buffer + value).split("\n\n");
      buffer = events.pop() ?? "";
      for (const event of events) this.#event(event);
    }
  }

  /** @param {string} event */
  #event(event) {
    const lines = event.split("\n");
    const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
    const type = lines.find((line) => line.startsWith("event: "))?.slice(7);
    if (type === "open") this.opened(JSON.parse(data).connection);
    else if (type === "close") this.closed(JSON.parse(data).code);
    else if (type === undefined && data !== "") this.heard(data);
  }
}

/** The server's frames come in the answers of requests that wait for them. */
export class PollSocket extends RequestSocket {
  /**
   * @override
   * @param {string} hello
   */
  async run(hello) {
    for (let body = hello; this.readyState === 1; body = "") {
      const response = await this.request("poll", body);
      /** @type {{ connection?: string, frames: object[], close?: Close }} */
      const answer = await response.json();
      if (answer.connection !== undefined) this.opened(answer.connection);
      for (const frame of answer.frames) this.heard(JSON.stringify(frame));
      if (answer.close !== undefined) this.closed(answer.close.code);
    }
  }
}
