import assert from "node:assert/strict";
import { test } from "node:test";

import { SignalingClient } from "../sdk/client.js";
import { relocated } from "../sdk/protocol.js";
import { VirtualClock, fakeWebSockets, seeded, welcome } from "./virtual.js";

const goaway = (in_ms, url) => ({ type: "goaway", seq: 0, ack: 0, in_ms, ...(url === undefined ? {} : { url }) });
const joined = (seq) => ({ type: "peer_joined", seq, ack: 0, peer: `p${seq}`, instance: "i", polite: true, resync: false, version: seq });
const resync = welcome({ outcome: "resync", reason: "unknown", resume: "token-2" });
const elsewhere = "ws://b.example/v1/rooms/r/ws";

test("a client leaves at its time, to the server that it was told, and not before", () => {
  const { clock, sockets, last } = connected();
  last().deliver(goaway(7_000, "http://b.example"));
  clock.advance(6_999);
  assert.equal(sockets.length, 1);
  clock.advance(1);
  assert.deepEqual(sockets.map(({ url }) => url), ["ws://a.example/v1/rooms/r/ws", elsewhere]);
  last().open();
  assert.deepEqual([last().sent[0].type, last().sent[0].resume], ["hello", "token-1"]);
});

test("the present connection stands until the other server has said welcome, and is closed without a bye", () => {
  const { client, clock, sockets, last, heard, states } = connected();
  last().deliver(goaway(0, "http://b.example"));
  clock.advance(0);
  last().open();
  sockets[0].deliver(joined(1));
  assert.deepEqual([heard("peer_joined").length, sockets[0].readyState], [1, 1]);
  last().deliver(resync);
  assert.deepEqual([sockets[0].readyState, client.state, heard("welcome").at(-1).outcome], [3, "open", "resync"]);
  assert.ok(!sockets[0].sent.some(({ type }) => type === "bye"));
  assert.ok(!states.slice(2).some(({ state }) => state !== "open"), JSON.stringify(states));
  clock.advance(9_000);
  assert.deepEqual([client.state, sockets.length, client.url], ["open", 2, elsewhere]);
});

test("without a url the client comes back to the address that it knows", () => {
  const { clock, sockets, last } = connected();
  last().deliver(goaway(1_000));
  clock.advance(1_000);
  assert.deepEqual(sockets.map(({ url }) => url), Array(2).fill("ws://a.example/v1/rooms/r/ws"));
});

test("a server that does not let it in is tried again beside the present connection, in turn with the address that it knows", () => {
  const { client, clock, sockets, last } = connected();
  last().deliver(goaway(0, "http://b.example"));
  while (sockets.length < 5) {
    clock.advance(100);
    sockets[0].deliver({ type: "ping", seq: 0, ack: 0 });
    if (sockets.length > 1 && last().readyState === 0) last().cut();
  }
  assert.deepEqual([client.state, sockets[0].readyState], ["open", 1]);
  assert.deepEqual(sockets.map(({ url }) => new URL(url).host), ["a.example", "b.example", "a.example", "b.example", "a.example"]);
});

test("a client that is closed at the end goes where it was told", () => {
  const { client, clock, sockets, last } = connected();
  last().deliver(goaway(60_000, "http://b.example"));
  last().cut(4000);
  clock.advance(500);
  assert.equal(last().url, elsewhere);
  last().open();
  last().deliver(resync);
  assert.deepEqual([client.state, sockets.length], ["open", 2]);
  clock.advance(14_000);
  assert.equal(sockets.length, 2, "the time that the first server named is no more");
});

test("a newcomer that is sent elsewhere goes there", () => {
  const { client, clock, last } = start();
  last().open();
  last().deliver(goaway(0, "http://b.example"));
  last().deliver({ type: "error", seq: 0, ack: 0, code: "going_away", message: "", temporary: true });
  last().cut(4000);
  clock.advance(500);
  last().open();
  last().deliver(welcome());
  assert.deepEqual([client.state, client.url], ["open", elsewhere]);
});

test("a later goaway replaces an earlier one", () => {
  const { clock, sockets, last } = connected();
  last().deliver(goaway(1_000, "http://b.example"));
  last().deliver(goaway(5_000, "http://c.example"));
  clock.advance(4_999);
  assert.equal(sockets.length, 1);
  clock.advance(1);
  assert.equal(last().url, "ws://c.example/v1/rooms/r/ws");
});

test("two servers that send the client to each other do not make it spin", () => {
  const { clock, sockets, last } = connected();
  last().deliver(goaway(0, "http://b.example"));
  for (let ms = 0; ms < 10_000; ms += 10) {
    clock.advance(10);
    if (sockets.length > 1 && last().readyState === 0) {
      last().open();
      last().deliver(goaway(0, "http://a.example"));
      last().cut(4000);
    }
    sockets[0].deliver({ type: "ping", seq: 0, ack: 0 });
  }
  assert.ok(sockets.length >= 3 && sockets.length <= 16, `${sockets.length}`);
});

test("replaced means replaced, also while another server is asked", () => {
  const { client, clock, sockets, last } = connected();
  last().deliver(goaway(0, "http://b.example"));
  clock.advance(0);
  sockets[0].cut(4203);
  assert.equal(client.state, "closed");
});

test("an origin that is none, or would take us from TLS to plain text, is not followed", () => {
  const here = "wss://a.example/v1/rooms/r/ws";
  assert.equal(relocated(here, "https://b.example:8443"), "wss://b.example:8443/v1/rooms/r/ws");
  for (const origin of [undefined, "", "b.example", "ftp://b.example", "http://b.example", "javascript:1"]) assert.equal(relocated(here, origin), here);
});

/** A client whose first socket is being opened. */
function start() {
  const clock = new VirtualClock();
  const { FakeWebSocket, sockets, last } = fakeWebSockets();
  const client = new SignalingClient({ url: "ws://a.example/v1/rooms/r/ws", secret: "secret", instance: "here", WebSocket: FakeWebSocket, fallbacks: [], clock, random: seeded(7) });
  const events = [];
  const states = [];
  for (const type of ["welcome", "peer_joined"]) client.addEventListener(type, ({ detail }) => events.push([type, detail]));
  client.addEventListener("state", ({ detail }) => states.push(detail));
  client.connect();
  return { client, clock, sockets, last, states, heard: (wanted) => events.filter(([type]) => type === wanted).map(([, frame]) => frame) };
}

/** A client that was welcomed. */
function connected() {
  const started = start();
  started.last().open();
  started.last().deliver(welcome());
  return started;
}
