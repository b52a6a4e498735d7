import assert from "node:assert/strict";
import { test } from "node:test";

import { SignalingClient } from "../sdk/client.js";
import { Ladder } from "../sdk/ladder.js";
import { VirtualClock, fakeWebSockets, seeded, welcome } from "./virtual.js";

const joined = (seq) => ({ type: "peer_joined", seq, ack: 0, peer: `p${seq}`, instance: "i", polite: true, resync: false, version: seq });
const replaced = { type: "error", seq: 0, ack: 0, code: "replaced", message: "another connection resumed this session", temporary: false };
const candidate = (text) => ({ negotiation: "n", candidate: { candidate: text } });

test("before any welcome each rung is tried once without a wait, then all over again", () => {
  const ladder = new Ladder(3);
  const seen = [];
  for (let attempt = 0; attempt < 6; attempt += 1) seen.push([ladder.rung, ladder.failed()]);
  assert.deepEqual(seen, [[0, true], [1, true], [2, false], [0, true], [1, true], [2, false]]);
});

test("a rung that has worked is tried twice before others are, and never without a wait", () => {
  const ladder = new Ladder(3);
  ladder.proved(1);
  const seen = [];
  for (let attempt = 0; attempt < 5; attempt += 1) seen.push([ladder.rung, ladder.failed()]);
  assert.deepEqual(seen, [[1, false], [1, false], [2, false], [0, false], [1, false]]);
  ladder.forget();
  assert.equal(ladder.rung, 0);
});

test("a WebSocket that is refused gives way to the next transport at once", () => {
  const { client, web, events } = start();
  web.last().cut();
  assert.equal(events.sockets.length, 1);
  events.last().open();
  events.last().deliver(welcome());
  assert.deepEqual([client.state, client.rung], ["open", 1]);
});

test("a WebSocket that is refused at once shows no fast network: the next transport has two seconds", () => {
  const { web, events, polls, clock } = start();
  web.last().cut();
  clock.advance(1_999);
  assert.deepEqual([events.last().readyState, polls.sockets.length], [0, 0]);
  clock.advance(1);
  assert.deepEqual([events.last().readyState, polls.sockets.length], [3, 1]);
});

test("a WebSocket that is not answered at all gives way after two seconds", () => {
  const { web, events, clock } = start();
  clock.advance(1_999);
  assert.equal(events.sockets.length, 0);
  clock.advance(1);
  assert.deepEqual([web.last().readyState, events.sockets.length], [3, 1]);
});

for (const [opens_after_ms, patience_ms] of [[20, 500], [300, 1_200], [1_500, 2_000]]) {
  test(`a WebSocket that opens after ${opens_after_ms} ms has to bring a welcome within ${patience_ms} ms, and so has the next transport`, () => {
    const { web, events, polls, clock } = start();
    clock.advance(opens_after_ms);
    web.last().open();
    clock.advance(patience_ms - 1);
    assert.equal(events.sockets.length, 0);
    clock.advance(1);
    events.last().open();
    clock.advance(patience_ms - 1);
    assert.deepEqual([events.last().readyState, polls.sockets.length], [1, 0]);
    clock.advance(1);
    assert.deepEqual([events.last().readyState, polls.sockets.length], [3, 1]);
  });
}

test("how fast the page came bounds the wait for a WebSocket that is not answered", () => {
  assert.equal(new Ladder(3).deadline_ms, 2_000);
  assert.equal(new Ladder(3, 15).deadline_ms, 500);
  assert.equal(new Ladder(3, 250).deadline_ms, 1_000);
  const ladder = new Ladder(3, 250);
  ladder.answered(400);
  ladder.answered(100);
  assert.equal(ladder.deadline_ms, 1_600);
});

test("a WebSocket that opens and then passes nothing on gives way, and the session begins on the next transport", () => {
  const { client, web, events, clock } = start();
  web.last().open();
  clock.advance(500);
  assert.equal(web.last().readyState, 3);
  events.last().open();
  assert.equal(events.last().sent[0].resume, undefined);
  events.last().deliver(welcome());
  assert.equal(client.rung, 1);
});

test("when neither gets through, the last one is given ten seconds, and then the first is tried again", () => {
  const { client, web, events, polls, clock } = start();
  web.last().cut();
  clock.advance(2_000);
  assert.equal(events.sockets.length, 1);
  clock.advance(9_999);
  assert.deepEqual([polls.sockets.length, client.state], [1, "connecting"]);
  clock.advance(1);
  assert.equal(client.state, "waiting");
  clock.advance(500);
  assert.equal(web.sockets.length, 2);
});

test("a server that closes is not a transport that fails: the same one is taken again", () => {
  const { web, events, clock } = start();
  web.last().open();
  web.last().cut(4000);
  clock.advance(500);
  assert.deepEqual([web.sockets.length, events.sockets.length], [2, 0]);
});

test("from a lower rung a better one takes over without a gap, and what was under way is sent again", () => {
  const { client, web, events, heard, states, clock } = fallen();
  events.last().deliver(joined(1));
  wait(clock, events, web);
  assert.equal(web.sockets.length, 2);
  assert.equal(client.state, "open");
  web.last().open();
  assert.deepEqual([web.last().sent[0].resume, web.last().sent[0].ack], ["token-1", 1]);
  // Both still talk: nobody knows yet which one will be.
  client.signal("a", candidate("1"));
  events.last().deliver(joined(2));
  web.last().deliver(welcome({ outcome: "resumed", resume: "token-2", ack: 0 }));
  web.last().deliver(joined(2));
  web.last().deliver(joined(3));
  events.sockets[0].deliver(joined(4));
  assert.deepEqual(heard("peer_joined").map(({ seq }) => seq), [1, 2, 3]);
  assert.deepEqual(web.last().sequenced.map(({ seq }) => seq), [1]);
  assert.deepEqual([client.rung, client.state, events.last().readyState], [0, "open", 3]);
  assert.ok(!states.slice(3).some(({ state }) => state === "waiting" || state === "connecting"));
  clock.advance(10_000);
  assert.deepEqual([client.state, web.sockets.length], ["open", 2]);
});

test("a better rung that still leads nowhere leaves the present connection alone, and is tried less and less often", () => {
  const { client, web, events, clock } = fallen();
  const tries = [];
  for (let second = 0; second < 1_200; second += 1) {
    const before = web.sockets.length;
    clock.advance(1_000);
    events.last().deliver({ type: "ping", seq: 0, ack: 0 });
    if (web.sockets.length > before) tries.push(second);
    if (second % 2 === 0) web.last().open();
  }
  assert.ok(tries.length >= 4 && tries.length <= 7, `${tries}`);
  assert.ok(tries[0] <= 30 && tries.at(-1) - tries.at(-2) > 120, `${tries}`);
  assert.deepEqual([client.state, client.rung, events.sockets.length], ["open", 1, 1]);
});

test("a better connection whose welcome is swallowed after it took over leads back to the one that worked", () => {
  const { client, web, events, clock } = fallen();
  wait(clock, events, web);
  assert.equal(web.sockets.length, 2);
  web.last().open();
  events.last().deliver(replaced);
  events.last().cut(4203);
  assert.equal(client.state, "connecting");
  clock.advance(5_000);
  assert.equal(web.last().readyState, 3);
  clock.advance(500);
  assert.equal(events.sockets.length, 2);
  events.last().open();
  assert.equal(events.last().sent[0].resume, "token-1");
  events.last().deliver(welcome({ outcome: "resumed", resume: "token-2" }));
  assert.deepEqual([client.state, client.rung], ["open", 1]);
});

test("being replaced by somebody else still ends it", () => {
  const { client, events } = fallen();
  events.last().cut(4203);
  assert.equal(client.state, "closed");
});

test("after a move to another server a better rung is tried there", () => {
  const { client, web, events, clock } = fallen();
  events.last().deliver({ type: "goaway", seq: 0, ack: 0, in_ms: 0, url: "http://b.example" });
  clock.advance(0);
  events.last().open();
  events.last().deliver(welcome({ outcome: "resync", resume: "token-2" }));
  assert.deepEqual([client.rung, events.sockets.length], [1, 2]);
  wait(clock, events, web);
  assert.equal(web.last().url, "ws://b.example/v1/rooms/r/ws");
});

test("another network means: begin with a WebSocket again", () => {
  const network = new EventTarget();
  const { web } = fallen({ network });
  network.dispatchEvent(new Event("online"));
  assert.equal(web.sockets.length, 2);
});

/** Lets time pass, in which the server pings, until another socket is opened. */
function wait(clock, events, { sockets }) {
  for (const before = sockets.length; sockets.length === before; clock.advance(1_000)) {
    events.last().deliver({ type: "ping", seq: 0, ack: 0 });
    assert.ok(clock.now() < 60_000, "nothing better was tried");
  }
}

/** A client with three transports whose sockets are played by the test. */
function start(options = {}) {
  const clock = new VirtualClock();
  const [web, events, polls] = [fakeWebSockets(), fakeWebSockets(), fakeWebSockets()];
  const client = new SignalingClient({
    url: "ws://x/v1/rooms/r/ws", secret: "secret", instance: "here", clock, random: seeded(7),
    WebSocket: web.FakeWebSocket, fallbacks: [events.FakeWebSocket, polls.FakeWebSocket], ...options,
  });
  const frames = [];
  const states = [];
  client.addEventListener("peer_joined", ({ detail }) => frames.push(detail));
  client.addEventListener("state", ({ detail }) => states.push(detail));
  client.connect();
  return { client, clock, web, events, polls, states, heard: (type) => frames.filter((frame) => frame.type === type) };
}

/** One that was welcomed on the second rung. */
function fallen(options) {
  const started = start(options);
  started.web.last().cut();
  started.events.last().open();
  started.events.last().deliver(welcome());
  return started;
}
