import assert from "node:assert/strict";
import { test } from "node:test";

import { SignalingClient } from "../sdk/client.js";
import { VirtualClock, fakeWebSockets, seeded, settled, welcome } from "./virtual.js";

/** So rare that a test need not answer. */
const NO_PINGS = { ping: { interval_ms: 2_000_000_000, deadline_ms: 0 } };
const MAY_ALL = { may_publish: true, may_kick: true, may_lock: true };

test("a token that is a text is shown in every hello", () => {
  const { last, clock } = start("abc");
  last().open();
  assert.equal(last().sent[0].token, "abc");
  last().deliver(welcome());
  last().cut();
  clock.advance(1000);
  last().open();
  assert.equal(last().sent[0].token, "abc");
});

test("a token that is fetched is awaited before a connection is opened, and kept", async () => {
  const { last, sockets, calls, clock, settle } = start(() => "t1");
  assert.equal(sockets.length, 0);
  await settle();
  last().open();
  assert.equal(last().sent[0].token, "t1");
  last().deliver(welcome());
  last().cut();
  clock.advance(1000);
  last().open();
  assert.deepEqual([last().sent[0].token, calls()], ["t1", 1]);
});

test("a token that cannot be fetched is fetched again, with patience", async () => {
  let works = false;
  const { client, last, sockets, clock, settle } = start(() => {
    if (!works) throw new Error("offline");
    return "t1";
  });
  await settle();
  assert.deepEqual([client.state, sockets.length], ["waiting", 0]);
  works = true;
  clock.advance(20_000);
  await settle();
  last().open();
  assert.equal(last().sent[0].token, "t1");
});

test("what was fetched for an attempt that was given up opens nothing", async () => {
  const { client, sockets, settle } = start(() => "t1");
  client.leave();
  await settle();
  assert.deepEqual([client.state, sockets.length], ["closed", 0]);
});

test("of two attempts the later one counts, whichever token comes first", async () => {
  const answers = [];
  const { client, sockets, last, settle } = start(() => new Promise((resolve) => answers.push(resolve)));
  await settle();
  client.reconnect();
  await settle();
  answers[1]("t2");
  await settle();
  answers[0]("t1");
  await settle();
  assert.deepEqual([client.state, sockets.length], ["connecting", 1]);
  last().open();
  assert.equal(last().sent[0].token, "t2");
});

test("a further token that cannot be had is fetched again after a while", async () => {
  let works = true;
  const { last, clock, settle } = start(() => (works ? "t" : Promise.reject(new Error("offline"))));
  await settle();
  last().open();
  last().deliver(welcome({ ...NO_PINGS, granted: { ...MAY_ALL, expires_in_ms: 100_000 } }));
  works = false;
  clock.advance(80_000);
  await settle();
  works = true;
  clock.advance(4_999);
  await settle();
  assert.deepEqual(shown(last()), []);
  clock.advance(1);
  await settle();
  assert.deepEqual(shown(last()), ["t"]);
});

test("a further token is shown before the present one ends, again and again", async () => {
  let n = 0;
  const { last, clock, settle } = start(() => `t${++n}`);
  await settle();
  last().open();
  last().deliver(welcome({ ...NO_PINGS, granted: { ...MAY_ALL, expires_in_ms: 100_000 } }));
  clock.advance(79_999);
  await settle();
  assert.deepEqual(shown(last()), []);
  clock.advance(1);
  await settle();
  assert.deepEqual(shown(last()), ["t2"]);
  last().deliver({ type: "granted", seq: 1, ack: 0, ...MAY_ALL, expires_in_ms: 3_600_000 });
  clock.advance(3_539_999);
  await settle();
  assert.equal(n, 2);
  clock.advance(1);
  await settle();
  assert.equal(n, 3);
});

test("a token whose end is far away does not overflow a timer", async () => {
  const { last, clock, calls, settle } = start(() => "t");
  await settle();
  last().open();
  last().deliver(welcome({ ...NO_PINGS, granted: { ...MAY_ALL, expires_in_ms: 40 * 24 * 3600 * 1000 } }));
  clock.advance(1_900_000_000);
  last().deliver({ type: "ping", seq: 0, ack: 0 });
  clock.advance(1_400_000_000);
  await settle();
  assert.equal(calls(), 1);
  clock.advance(160_000_000);
  await settle();
  assert.equal(calls(), 2);
});

test("a further token that cannot be verified for now is fetched again after a while", async () => {
  const { last, clock, calls, settle } = start(() => "t");
  await settle();
  last().open();
  last().deliver(welcome());
  last().deliver({ type: "error", seq: 1, ack: 0, code: "token_unverified", message: "", temporary: true });
  clock.advance(5_000);
  await settle();
  assert.equal(calls(), 2);
});

test("when the token has ended the client comes back with another, if it can have one", async () => {
  let n = 0;
  const { client, last, clock, settle } = start(() => `t${++n}`);
  await settle();
  last().open();
  last().deliver(welcome());
  last().cut(4208);
  assert.equal(client.state, "waiting");
  clock.advance(1000);
  await settle();
  last().open();
  assert.equal(last().sent[0].token, "t2");
});

test("a token of before that is refused is replaced once; one that was just fetched is not", async () => {
  const { client, last, clock, calls, settle } = start(() => "t");
  await settle();
  last().open();
  last().deliver(welcome());
  last().cut();
  clock.advance(1000);
  last().open();
  last().cut(4207);
  assert.equal(client.state, "waiting");
  clock.advance(5000);
  await settle();
  assert.equal(calls(), 2);
  last().open();
  last().cut(4207);
  assert.equal(client.state, "closed");
});

test("a token that is a text is not shown again after it was refused or has ended", () => {
  for (const code of [4207, 4208]) {
    const { client, last } = start("abc");
    last().open();
    last().cut(code);
    assert.equal(client.state, "closed");
  }
});

test("whoever was removed, banned or locked out stays away, and is told in whose words", () => {
  for (const [code, name] of [[4204, "kicked"], [4205, "banned"], [4206, "locked"], [4209, "denied"], [4210, "wrong_password"], [4211, "already_here"]]) {
    const { client, last, states } = start(undefined);
    last().open();
    last().deliver({ type: "error", seq: 0, ack: 0, code: name, message: "please stop", temporary: false });
    last().cut(code);
    assert.equal(client.state, "closed");
    assert.deepEqual(states.at(-1), { state: "closed", code, name, message: "please stop" });
  }
});

test("a moderator removes peers and closes the door, in sequence, and sees what may be done", () => {
  const { client, last } = start(undefined);
  assert.deepEqual(client.granted, { may_publish: true, may_kick: false, may_lock: false });
  last().open();
  last().deliver(welcome({ granted: { role: "host", ...MAY_ALL } }));
  assert.equal(client.granted.may_kick, true);
  assert.equal(client.may_lift, false, "the server does not say that it knows how");
  client.kick("p1", { ban_ms: 60_000, reason: "enough" });
  client.kick("p2");
  client.setDoor("locked");
  client.setDoor("open", "sesame");
  client.answer("p3", true);
  client.answer("p4", false);
  client.askForBans();
  client.lift("p5");
  assert.deepEqual(last().sequenced, [
    { type: "kick", seq: 1, ack: 0, to: "p1", ban_ms: 60_000, reason: "enough" },
    { type: "kick", seq: 2, ack: 0, to: "p2" },
    { type: "door", seq: 3, ack: 0, door: "locked" },
    { type: "door", seq: 4, ack: 0, door: "open", password: "sesame" },
    { type: "admit", seq: 5, ack: 0, to: "p3" },
    { type: "deny", seq: 6, ack: 0, to: "p4" },
    { type: "bans", seq: 7, ack: 0 },
    { type: "lift", seq: 8, ack: 0, to: "p5" },
  ]);
  assert.equal(client.door, "open");
  last().deliver({ type: "room_changed", seq: 1, ack: 3, door: "locked", version: 2 });
  assert.equal(client.door, "locked");
});

test("who knocks comes back for the answer when the server says so, and says the password each time", () => {
  const { client, last, sockets, clock, states } = start(undefined, { password: "sesame" });
  for (let turn = 1; turn <= 9; turn += 1) {
    last().open();
    assert.deepEqual([last().sent[0].password, sockets.length], ["sesame", turn]);
    last().deliver({ type: "error", seq: 0, ack: 0, code: "knocking", message: "", temporary: true, retry_after_ms: 3000 });
    last().cut(4104);
    assert.deepEqual([client.state, states.at(-1).name], ["waiting", "knocking"]);
    clock.advance(2_999);
    assert.equal(client.state, "waiting");
    clock.advance(502);
  }
  last().open();
  last().deliver(welcome());
  assert.equal(client.state, "open");
});

/** The tokens that were shown after the hello. */
function shown(socket) {
  return socket.sent.filter(({ type }) => type === "token").map(({ token }) => token);
}

function start(token, more = {}) {
  const clock = new VirtualClock();
  const arm = clock.setTimeout;
  // A browser takes a longer time for none at all.
  clock.setTimeout = (action, after_ms) => {
    assert.ok(after_ms < 2 ** 31, `${after_ms}`);
    return arm(action, after_ms);
  };
  const { sockets, FakeWebSocket } = fakeWebSockets();
  let called = 0;
  const option = typeof token !== "function" ? token : async () => {
    called += 1;
    return token();
  };
  const options = { url: "wss://host/v1/rooms/r/ws", secret: "secret", instance: "here", clock, random: seeded(1), network: undefined };
  const client = new SignalingClient({ ...options, ...more, token: option, WebSocket: FakeWebSocket, fallbacks: [] });
  const states = [];
  client.addEventListener("state", ({ detail }) => states.push(detail));
  client.connect();
  return { client, clock, sockets, states, settle: settled, calls: () => called, last: () => sockets.at(-1) };
}
