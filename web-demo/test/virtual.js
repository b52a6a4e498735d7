// Stand-ins for time, the network and the browser that the tests turn by hand.

/** Time that passes only when a test says so. */
export class VirtualClock {
  #now = 0;
  #timers = new Map();
  #next = 1;

  now = () => this.#now;

  setTimeout = (action, after_ms) => {
    this.#timers.set(this.#next, { at: this.#now + after_ms, action });
    return this.#next++;
  };

  clearTimeout = (timer) => void this.#timers.delete(timer);

  /** Lets time pass; timers fire in the order of their deadlines. */
  advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      if (due === undefined) break;
      this.#timers.delete(due[0]);
      this.#now = due[1].at;
      due[1].action();
    }
    this.#now = end;
  }
}

/** Numbers that look random and are the same every time. */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** A class of WebSockets whose instances are kept, so that a test can play the server. */
export function fakeWebSockets() {
  const sockets = [];
  class FakeWebSocket {
    readyState = 0;
    sent = [];

    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      sockets.push(this);
    }

    send(text) {
      this.sent.push(JSON.parse(text));
    }

    close() {
      this.readyState = 3;
    }

    /** The server's side. */
    open() {
      this.readyState = 1;
      this.onopen();
    }

    deliver(frame) {
      this.onmessage({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
    }

    cut(code = 1006) {
      this.readyState = 3;
      this.onclose({ code });
    }

    /** What was sent in sequence. */
    get sequenced() {
      return this.sent.filter(({ seq }) => seq > 0);
    }
  }
  return { FakeWebSocket, sockets, last: () => sockets.at(-1) };
}

export function welcome(fields = {}) {
  return {
    type: "welcome", seq: 0, ack: 0, session: "s", peer: "me", resume: "token-1", outcome: "new", features: [],
    limits: { message_bytes: 65536, messages_per_second: 100, replay_messages: 256, replay_bytes: 262144 },
    ping: { interval_ms: 10000, deadline_ms: 5000 }, grace_ms: 30000, ice: { servers: [] },
    room: { name: "r", version: 1, peers: [] },
    ...fields,
  };
}

let certificates = 0;

/**
 * An RTCPeerConnection without a network: it has the signaling states, the rollback and the negotiation-needed
 * rules of JSEP, and nothing else.
 */
export class FakeConnection {
  signalingState = "stable";
  connectionState = "new";
  localDescription = null;
  remoteDescription = null;
  candidates = [];
  restarts = 0;
  /** Types of the selected candidates. */
  pair = { local: "host", remote: "host" };
  closed = false;
  #stable = { local: null, remote: null };
  #needed = false;
  #certificate = `AA:${++certificates}`;
  #generation = 1;
  /** @type {"active" | "passive" | undefined} */
  #role;
  #transceivers = [];

  constructor(configuration) {
    this.configuration = configuration;
  }

  createDataChannel() {
    this.channel = { readyState: "connecting", sent: [], send: (text) => this.channel.sent.push(text) };
    this.#need();
    return this.channel;
  }

  addTrack(track) {
    const sender = { track, replaceTrack: async (other) => void (sender.track = other) };
    this.#transceivers.push({ receiver: { track: { kind: track.kind } }, sender });
    this.#need();
    return sender;
  }

  addTransceiver(kind) {
    this.#transceivers.push({ receiver: { track: { kind } } });
    this.#need();
  }

  getTransceivers() {
    return this.#transceivers;
  }

  setConfiguration(configuration) {
    this.configuration = configuration;
  }

  async getStats() {
    const [localCandidateId, remoteCandidateId] = ["local", "remote"];
    return new Map(Object.entries({
      transport: { type: "transport", selectedCandidatePairId: "pair" },
      pair: { type: "candidate-pair", localCandidateId, remoteCandidateId },
      local: { type: "local-candidate", candidateType: this.pair.local },
      remote: { type: "remote-candidate", candidateType: this.pair.remote },
    }));
  }

  restartIce() {
    this.restarts += 1;
    this.#generation += 1;
    this.#need();
  }

  async setLocalDescription() {
    await null;
    const type = this.signalingState === "have-remote-offer" ? "answer" : "offer";
    this.#needed = false;
    // RFC 8842 section 5.3: once the DTLS roles are taken they stay, and an answer that reverses them fails.
    if (type === "answer") this.#role ??= "active";
    this.localDescription = { type, sdp: `${this.#sdp()}a=setup:${type === "answer" ? this.#role : "actpass"}\r\n` };
    this.signalingState = type === "offer" ? "have-local-offer" : "stable";
    if (type === "answer") this.#settle();
  }

  async setRemoteDescription(description) {
    await null;
    if (!description.sdp?.startsWith("v=0")) throw new Error("OperationError: not SDP");
    if (description.type === "answer") {
      if (this.signalingState !== "have-local-offer") throw new Error("InvalidStateError: no offer is outstanding");
      const role = description.sdp.includes("a=setup:active") ? "passive" : "active";
      if ((this.#role ?? role) !== role) throw new Error("InvalidAccessError: failed to set SSL role for the transport");
      this.#role = role;
      this.remoteDescription = description;
      this.signalingState = "stable";
      this.#settle();
      return;
    }
    if (this.signalingState === "have-local-offer") {
      this.localDescription = this.#stable.local;
      this.#needed = true;
    }
    this.remoteDescription = description;
    this.signalingState = "have-remote-offer";
  }

  async addIceCandidate(candidate) {
    await null;
    if (this.remoteDescription === null) throw new Error("InvalidStateError: no remote description");
    this.candidates.push(candidate);
  }

  close() {
    this.closed = true;
    this.signalingState = "closed";
  }

  /** The test's hand. */
  become(state) {
    this.connectionState = state;
    this.onconnectionstatechange();
  }

  gather(text) {
    const usernameFragment = /ice-ufrag:(\S+)/.exec(this.localDescription.sdp)[1];
    this.onicecandidate({ candidate: { candidate: text, usernameFragment, toJSON: () => ({ candidate: text, usernameFragment }) } });
  }

  #sdp() {
    return `v=0\r\na=fingerprint:sha-256 ${this.#certificate}\r\na=ice-ufrag:${this.#certificate.slice(3)}g${this.#generation}\r\n`;
  }

  #settle() {
    this.#stable = { local: this.localDescription, remote: this.remoteDescription };
    if (this.#needed) this.#need();
  }

  #need() {
    this.#needed = true;
    queueMicrotask(() => {
      if (this.#needed && this.signalingState === "stable" && !this.closed) this.onnegotiationneeded?.();
    });
  }
}

/** Lets every promise that can settle, settle. */
export async function settled() {
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
}
