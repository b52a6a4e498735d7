import assert from "node:assert/strict";
import { test } from "node:test";

import { SignalingClient } from "../sdk/client.js";
import { VirtualClock, fakeWebSockets, seeded, welcome } from "./virtual.js";

const joined = (seq, peer = `p${seq}`) => ({ type: "peer_joined", seq, ack: 0, peer, instance: "i", polite: true, resync: false, version: seq });

test("the first frame is a hello with the secret and nothing to acknowledge", () => {
  const { last } = start({ name: "Ada" });
  last().open();
  assert.deepEqual(last().protocols, ["signaling.v1"]);
  assert.deepEqual(last().sent, [{ type: "hello", seq: 0, ack: 0, secret: "secret", instance: "here", name: "Ada", attempt: 1 }]);
});

test("sequenced frames count from one and carry what was received", () => {
  const { client, last } = connected();
  client.signal("a", candidate("1"));
  last().deliver(joined(1));
  client.signal("a", candidate("2"));
  assert.deepEqual(last().sequenced.map(({ seq, ack }) => [seq, ack]), [[1, 0], [2, 1]]);
});

test("a frame that arrives twice is delivered once", () => {
  const { last, heard } = connected();
  for (const seq of [1, 2, 2, 1, 3]) last().deliver(joined(seq));
  assert.deepEqual(heard("peer_joined").map(({ seq }) => seq), [1, 2, 3]);
});

test("a gap in the sequence is never delivered; the client asks again over a new socket", () => {
  const { last, heard, clock, sockets } = connected();
  last().deliver(joined(1));
  last().deliver(joined(3));
  clock.advance(1000);
  last().open();
  assert.deepEqual(heard("peer_joined").map(({ seq }) => seq), [1]);
  assert.equal(sockets.length, 2);
  assert.equal(last().sent[0].ack, 1);
});

test("what was not acknowledged is replayed after a resume, in order and once", () => {
  const { client, last, clock } = connected();
  for (const name of ["1", "2", "3"]) client.signal("a", candidate(name));
  last().deliver({ type: "ack", seq: 0, ack: 1 });
  last().cut();
  client.signal("a", candidate("4"));
  clock.advance(1000);
  last().open();
  assert.deepEqual(last().sent[0], { type: "hello", seq: 0, ack: 0, secret: "secret", instance: "here", resume: "token-1", attempt: 2 });
  last().deliver(welcome({ outcome: "resumed", resume: "token-2", ack: 2 }));
  assert.deepEqual(last().sequenced.map(({ seq, candidate: { candidate } }) => [seq, candidate]), [[3, "3"], [4, "4"]]);
});

test("after a resume the server's replay goes on where it stopped", () => {
  const { last, heard, clock } = connected();
  last().deliver(joined(1));
  last().cut();
  clock.advance(1000);
  last().open();
  last().deliver(welcome({ outcome: "resumed", resume: "token-2" }));
  last().deliver(joined(1));
  last().deliver(joined(2));
  assert.equal(last().sent[0].ack, 1);
  assert.deepEqual(heard("peer_joined").map(({ seq }) => seq), [1, 2]);
});

test("a welcome is acknowledged at once, so that the old token may be forgotten", () => {
  const { last } = connected();
  assert.deepEqual(last().sent.at(-1), { type: "ack", seq: 0, ack: 0 });
});

test("a resync starts both sequences anew and drops what the old session had not sent", () => {
  const { client, last, heard, clock } = connected();
  last().deliver(joined(1));
  client.signal("a", candidate("old"));
  last().cut();
  client.signal("a", candidate("old too"));
  clock.advance(1000);
  last().open();
  last().deliver(welcome({ outcome: "resync", reason: "unknown", resume: "token-2" }));
  last().deliver(joined(1, "again"));
  client.signal("a", candidate("new"));
  assert.deepEqual(last().sequenced.map(({ seq, candidate: { candidate } }) => [seq, candidate]), [[1, "new"]]);
  assert.deepEqual(heard("peer_joined").map(({ peer }) => peer), ["p1", "again"]);
});

test("a ping is answered at once", () => {
  const { last } = connected();
  last().deliver(joined(1));
  last().deliver({ type: "ping", seq: 0, ack: 0 });
  assert.deepEqual(last().sent.at(-1), { type: "pong", seq: 0, ack: 1 });
});

test("what nothing else acknowledged is acknowledged within a second", () => {
  const { last, clock } = connected();
  last().deliver(joined(1));
  clock.advance(1000);
  assert.deepEqual(last().sent.at(-1), { type: "ack", seq: 0, ack: 1 });
});

test("sixteen frames are acknowledged without waiting", () => {
  const { last } = connected();
  for (let seq = 1; seq <= 16; seq += 1) last().deliver(joined(seq));
  assert.deepEqual(last().sent.at(-1), { type: "ack", seq: 0, ack: 16 });
});

test("a socket that is silent past interval and deadline is given up, one that speaks is kept", () => {
  const { client, last, clock, sockets } = connected();
  clock.advance(14_999);
  last().deliver({ type: "ping", seq: 0, ack: 0 });
  clock.advance(14_999);
  assert.equal(client.state, "open");
  clock.advance(1);
  assert.equal(client.state, "waiting");
  assert.equal(sockets[0].readyState, 3);
});

test("a handshake that leads to no welcome is given up", () => {
  const { client, clock } = start();
  clock.advance(10_000);
  assert.equal(client.state, "waiting");
});

test("waits grow from one failure to the next and are never longer than the cap", () => {
  const { last, states, clock } = connected();
  for (let attempt = 0; attempt < 9; attempt += 1) {
    last().cut();
    clock.advance(10_000);
  }
  const waits = states.filter(({ state }) => state === "waiting").map(({ retry_in_ms }) => retry_in_ms);
  assert.equal(waits.length, 9);
  assert.ok(waits[0] <= 500, `${waits[0]}`);
  assert.ok(Math.max(...waits) > 3000 && Math.max(...waits) <= 8000, `${waits}`);
});

test("online means: reconnect now", () => {
  const network = new EventTarget();
  const { client, last, sockets } = connected({ network });
  last().cut();
  network.dispatchEvent(new Event("online"));
  assert.equal(client.state, "connecting");
  assert.equal(sockets.length, 2);
});

test("online shortens our own part of a wait, never the server's", () => {
  const network = new EventTarget();
  const { client, last, clock, sockets, states } = connected({ network });
  last().deliver({ type: "error", seq: 0, ack: 0, code: "overloaded", message: "later", temporary: true, retry_after_ms: 7000 });
  last().cut(4100);
  clock.advance(2000);
  network.dispatchEvent(new Event("online"));
  assert.deepEqual(states.at(-1), { state: "waiting", retry_in_ms: 5000 });
  clock.advance(4999);
  assert.equal(sockets.length, 1);
  clock.advance(1);
  assert.equal(sockets.length, 2);
  assert.equal(client.state, "connecting");
});

test("a session that ended no longer listens to the network, one that is begun again does", () => {
  let listeners = 0;
  const network = {
    addEventListener: (type, listener, { signal }) => {
      listeners += 1;
      signal.addEventListener("abort", () => (listeners -= 1));
    },
  };
  const { client, last } = connected({ network });
  assert.equal(listeners, 1);
  last().cut(4203);
  assert.equal(listeners, 0);
  client.connect();
  assert.equal(listeners, 1);
});

test("a resume brings no fresh burst: only time refills what the rate allows", () => {
  const { client, last, clock } = connected({ random: () => 0 });
  const burst = () => {
    for (let count = 0; count < 100; count += 1) client.signal("a", candidate("x"));
    return last().sequenced.length;
  };
  assert.equal(burst(), 80);
  last().cut();
  clock.advance(100);
  last().open();
  last().deliver(welcome({ outcome: "resumed", ack: 80 }));
  assert.equal(last().sequenced.length, 8);
});

test("a socket that was given up is not listened to any more", () => {
  const { client, heard, sockets, last } = connected();
  client.reconnect();
  sockets[0].deliver(joined(1));
  sockets[0].cut(4203);
  assert.equal(client.state, "connecting");
  last().open();
  last().deliver(welcome({ outcome: "resumed" }));
  assert.equal(client.state, "open");
  assert.equal(heard("peer_joined").length, 0);
});

test("codes from 4000 come back, codes from 4200 never", () => {
  for (const [code, state] of [[4000, "waiting"], [4001, "waiting"], [4099, "waiting"], [4199, "waiting"], [4200, "closed"], [4203, "closed"], [1006, "waiting"]]) {
    const { client, last } = connected();
    last().cut(code);
    assert.equal(client.state, state, `${code}`);
  }
});

test("codes from 4100 come back after the time that the server named", () => {
  const { client, last, clock } = connected();
  last().deliver({ type: "error", seq: 0, ack: 0, code: "room_full", message: "full", temporary: true, retry_after_ms: 7000 });
  last().cut(4102);
  clock.advance(6999);
  assert.equal(client.state, "waiting");
  clock.advance(501);
  assert.equal(client.state, "connecting");
});

test("leaving sends a sequenced bye and does not come back", () => {
  const { client, last, clock, sockets } = connected();
  client.leave();
  assert.deepEqual(last().sent.at(-1), { type: "bye", seq: 1, ack: 0 });
  last().cut(1000);
  clock.advance(60_000);
  assert.equal(client.state, "closed");
  assert.equal(sockets.length, 1);
});

test("leaving over a dead network ends by itself", () => {
  const { client, clock } = connected();
  client.leave();
  clock.advance(1000);
  assert.equal(client.state, "closed");
});

test("a burst stays below the announced rate and arrives complete", () => {
  const { client, last, clock } = connected();
  for (let count = 0; count < 200; count += 1) client.signal("a", candidate(`${count}`));
  assert.ok(last().sequenced.length <= 100, `${last().sequenced.length}`);
  clock.advance(3000);
  assert.deepEqual(last().sequenced.map(({ seq }) => seq), Array.from({ length: 200 }, (_, index) => index + 1));
});

test("more than may be kept ends the session openly instead of leaving a gap", () => {
  const { client, last, clock } = connected();
  last().cut();
  for (let count = 0; count < 257; count += 1) client.signal("a", candidate(`${count}`));
  clock.advance(1000);
  last().open();
  assert.equal(last().sent[0].resume, undefined);
  last().deliver(welcome({ outcome: "new" }));
  assert.deepEqual(last().sequenced, []);
});

test("bytes that are no frame end the socket, not the client", () => {
  for (const junk of ["not json", "[]", '{"type":"ping"}', '{"type":"ping","seq":-1,"ack":0}', "null"]) {
    const { client, last } = connected();
    last().deliver(junk);
    assert.notEqual(client.state, "open", junk);
  }
});

test("a server that does not know reports gets one and no more", () => {
  const { client, last } = connected();
  client.report("turn:x", 401);
  last().deliver({ type: "error", seq: 1, ack: 0, code: "unknown_type", message: "?", temporary: false });
  client.report("turn:y", 401);
  assert.equal(last().sent.filter(({ type }) => type === "report").length, 1);
});

test("through random cuts every frame of both directions arrives exactly once and in order", () => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  console.log(`seed ${seed}`);
  const random = seeded(seed);
  const { client, clock, last, heard } = connected({ random });
  const server = { received: 0, got: [], sent: [], socket: undefined };
  server.socket = last();
  let read = server.socket.sent.length;
  const serve = () => {
    // The server reads some of what is on the wire, perhaps none.
    for (; read < server.socket.sent.length && random() < 0.8; read += 1) {
      const frame = server.socket.sent[read];
      if (frame.seq === server.received + 1) {
        server.received = frame.seq;
        server.got.push(frame.candidate.candidate);
      } else assert.ok(frame.seq <= server.received, `gap before ${frame.seq}`);
    }
  };
  let said = 0;
  for (let step = 0; step < 3000; step += 1) {
    serve();
    const dice = random();
    if (dice < 0.45) {
      said += 1;
      client.signal("a", candidate(`${said}`));
    } else if (dice < 0.85) {
      server.sent.push(joined(server.sent.length + 1));
      if (random() < 0.7 && client.state === "open") server.socket.deliver({ ...server.sent.at(-1), ack: server.received });
      else server.socket.lost = true;
    }
    if (client.state === "open" && (dice > 0.93 || server.socket.lost)) server.socket.cut();
    clock.advance(random() * 400);
    if (client.state === "connecting" && last().readyState === 0) {
      server.socket = last();
      read = 1;
      server.socket.open();
      const { ack } = server.socket.sent[0];
      server.socket.deliver(welcome({ outcome: "resumed", ack: server.received }));
      for (const frame of server.sent.slice(ack)) server.socket.deliver(frame);
    }
  }
  // A frame lost with nothing after it shows only when the socket goes.
  if (client.state === "open" && server.socket.lost) server.socket.cut();
  while (server.got.length < said || heard("peer_joined").length < server.sent.length) {
    if (client.state !== "open") {
      clock.advance(10_000);
      if (client.state !== "connecting") continue;
      server.socket = last();
      read = 1;
      server.socket.open();
      server.socket.deliver(welcome({ outcome: "resumed", ack: server.received }));
      for (const frame of server.sent.slice(server.socket.sent[0].ack)) server.socket.deliver(frame);
    }
    clock.advance(100);
    serve();
  }
  assert.deepEqual(server.got, Array.from({ length: said }, (_, index) => `${index + 1}`));
  assert.deepEqual(heard("peer_joined").map(({ seq }) => seq), server.sent.map(({ seq }) => seq));
});

function candidate(text) {
  return { negotiation: "n", candidate: { candidate: text } };
}

/** A client whose first socket is being opened. */
function start(options = {}) {
  const clock = new VirtualClock();
  const { FakeWebSocket, sockets, last } = fakeWebSockets();
  const client = new SignalingClient({ url: "ws://x/v1/rooms/r/ws", secret: "secret", instance: "here", WebSocket: FakeWebSocket, fallbacks: [], clock, random: seeded(7), ...options });
  const events = [];
  const states = [];
  for (const type of ["welcome", "peer_joined", "peer_left", "signal", "error"]) {
    client.addEventListener(type, ({ detail }) => events.push([type, detail]));
  }
  client.addEventListener("state", ({ detail }) => states.push(detail));
  client.connect();
  return { client, clock, sockets, last, states, heard: (wanted) => events.filter(([type]) => type === wanted).map(([, frame]) => frame) };
}

/** A client that was welcomed. */
function connected(options) {
  const started = start(options);
  started.last().open();
  started.last().deliver(welcome());
  return started;
}
