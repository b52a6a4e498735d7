import assert from "node:assert/strict";
import { test } from "node:test";

import { Mesh } from "../sdk/mesh.js";
import { FakeConnection, VirtualClock, settled, welcome } from "./virtual.js";

const entry = (peer, fields = {}) => ({ peer, instance: `${peer}-1`, polite: true, state: "here", ...fields });

test("whoever was here first offers, the joiner waits and answers", async () => {
  const { room, member } = twoInARoom();
  const sent = await room.deliverAll();
  assert.deepEqual(kinds(sent), ["old offer", "new answer"]);
  assert.equal(member("old").link("new").signalingState, "stable");
  assert.equal(member("new").link("old").signalingState, "stable");
});

test("a joiner that nobody offers to stops waiting and offers itself", async () => {
  const { room, clock, add } = lab();
  const late = add("late");
  late.client.fire("welcome", welcome({ room: { name: "r", version: 1, peers: [entry("silent")] } }));
  await settled();
  clock.advance(4999);
  assert.deepEqual(room.pending, []);
  clock.advance(1);
  await settled();
  assert.deepEqual(kinds(room.pending), ["late offer"]);
});

test("when both offer at once the impolite offer wins and both end stable with one exchange", async () => {
  const { room, member } = twoInARoom();
  await room.deliverAll();
  member("old").peer("new").restartIce();
  member("new").peer("old").restartIce();
  await settled();
  assert.deepEqual(kinds(room.pending), ["old offer", "new offer"]);
  const sent = await room.deliverAll();
  // "new" is polite here: its offer is rolled back, and the other's exchange serves both.
  assert.deepEqual(kinds(sent), ["old offer", "new offer", "new answer"]);
  for (const [one, other] of [["old", "new"], ["new", "old"]]) {
    assert.equal(member(one).link(other).signalingState, "stable");
    assert.equal(member(one).link(other).remoteDescription.sdp.slice(0, 40), member(other).link(one).localDescription.sdp.slice(0, 40));
  }
});

test("an answer to another negotiation than the outstanding one is dropped", async () => {
  const { room, member } = twoInARoom();
  await settled();
  const offer = room.take();
  await member("old").peer("new").receive({ negotiation: "of-yesterday", description: { type: "answer", sdp: "v=0\r\n" } });
  assert.equal(member("old").link("new").signalingState, "have-local-offer");
  await member("new").hear(offer);
  await room.deliverAll();
  assert.equal(member("old").link("new").signalingState, "stable");
});

test("an answer that arrives twice is applied once", async () => {
  const { room, member } = twoInARoom();
  const sent = await room.deliverAll();
  const answer = sent.at(-1);
  await member("old").hear(answer);
  assert.equal(member("old").link("new").signalingState, "stable");
});

test("a candidate of an earlier ICE generation is dropped, one of the present generation is added", async () => {
  const { room, member } = twoInARoom();
  await room.deliverAll();
  member("new").link("old").gather("early");
  const early = room.take();
  member("new").peer("old").restartIce();
  await room.deliverAll();
  member("new").link("old").gather("present");
  await room.deliverAll();
  await member("old").hear(early);
  assert.deepEqual(member("old").link("new").candidates.map(({ candidate }) => candidate), ["present"]);
});

test("the end of candidates is sent once per generation", async () => {
  const { room, member } = twoInARoom();
  await room.deliverAll();
  for (let time = 0; time < 2; time += 1) member("new").link("old").onicecandidate({ candidate: null });
  const sent = room.pending.map(({ body }) => body.candidate);
  assert.equal(sent.length, 1);
  assert.equal(sent[0].candidate, "");
});

test("after a renewed session an offer without an answer is sent again, under the same negotiation", async () => {
  const { room, member } = twoInARoom();
  await settled();
  const lost = room.take();
  member("old").client.fire("welcome", welcome({ outcome: "resync", room: { name: "r", version: 1, peers: [entry("new", { polite: false })] } }));
  await settled();
  const [again] = room.pending;
  assert.equal(again.body.negotiation, lost.body.negotiation);
  await room.deliverAll();
  assert.equal(member("old").link("new").signalingState, "stable");
});

test("after a renewed session an answer that was lost is asked for and given again", async () => {
  const { room, member } = twoInARoom();
  await settled();
  await member("new").hear(room.take());
  await settled();
  room.take();
  member("old").client.fire("peer_joined", { ...entry("new", { polite: false }), resync: true });
  await room.deliverAll();
  assert.equal(member("old").link("new").signalingState, "stable");
});

for (const first of ["old", "new"]) {
  for (const polite of ["old", "new"]) {
    test(`an answer that was lost with the server is made up for when "${first}" comes back first and "${polite}" is polite`, async () => {
      const { room, member } = twoInARoom(polite);
      await settled();
      await member("new").hear(room.take());
      await settled();
      room.take();
      const links = [member("old").link("new"), member("new").link("old")];
      const second = first === "old" ? "new" : "old";
      const seen = (id) => entry(id, { polite: id !== polite });
      member(first).client.fire("welcome", welcome({ outcome: "resync" }));
      member(second).client.fire("welcome", welcome({ outcome: "resync", room: { name: "r", version: 1, peers: [seen(first)] } }));
      member(first).client.fire("peer_joined", { ...seen(second), resync: false });
      await room.deliverAll();
      assert.deepEqual([member("old").link("new"), member("new").link("old")], links);
      assert.deepEqual(links.map(({ signalingState }) => signalingState), ["stable", "stable"]);
    });
  }
}

test("an answer that cannot be applied ends in a fresh connection on both sides", async () => {
  const { room, member, clock } = twoInARoom();
  await settled();
  await member("new").hear(room.take());
  await settled();
  const answer = room.take();
  const before = member("old").link("new");
  await member("old").hear({ ...answer, body: { ...answer.body, description: { type: "answer", sdp: "junk" } } });
  clock.advance(1_000);
  await room.deliverAll();
  assert.ok(before.closed);
  assert.equal(member("old").link("new").signalingState, "stable");
  assert.equal(member("new").link("old").signalingState, "stable");
});

test("an offer that nobody answers is made again", async () => {
  const { room, clock } = twoInARoom();
  await settled();
  const lost = room.take();
  clock.advance(30_000);
  await settled();
  assert.deepEqual(room.take().body, lost.body);
});

test("after a renewed session a settled and connected pair is left alone", async () => {
  const { room, member } = await connectedPair();
  const links = [member("old").link("new"), member("new").link("old")];
  member("old").client.fire("welcome", welcome({ outcome: "resync", room: { name: "r", version: 1, peers: [] } }));
  member("new").client.fire("welcome", welcome({ outcome: "resync", room: { name: "r", version: 1, peers: [entry("old")] } }));
  member("old").client.fire("peer_joined", { ...entry("new", { polite: false }), resync: false });
  assert.deepEqual(await room.deliverAll(), []);
  assert.deepEqual([member("old").link("new"), member("new").link("old")], links);
  assert.deepEqual(links.map(({ restarts }) => restarts), [0, 0]);
});

test("after a renewed session only the impolite side restarts a pair that was not connected", async () => {
  const { room, member, clock } = twoInARoom();
  await room.deliverAll();
  member("new").client.fire("welcome", welcome({ outcome: "resync", room: { name: "r", version: 1, peers: [entry("old")] } }));
  member("old").client.fire("peer_joined", { ...entry("new", { polite: false }), resync: true });
  await room.deliverAll();
  clock.advance(5_000);
  assert.equal(member("old").link("new").restarts, 1);
  assert.equal(member("new").link("old").restarts, 0);
});

test("a newcomer that a resumed snapshot already names is offered to once its arrival is replayed", async () => {
  const { room, add } = lab();
  const old = add("old");
  old.client.fire("welcome", welcome());
  old.client.fire("welcome", welcome({ outcome: "resumed", room: { name: "r", version: 2, peers: [entry("new")] } }));
  old.client.fire("peer_joined", { ...entry("new"), resync: false });
  await settled();
  assert.deepEqual(kinds(room.pending), ["old offer"]);
});

test("another instance under a known id starts anew in the same place", async () => {
  const { room, member } = await connectedPair();
  const before = member("old").link("new");
  member("old").client.fire("peer_joined", { ...entry("new", { polite: false, instance: "new-2" }), resync: true });
  await settled();
  assert.ok(before.closed);
  assert.equal(member("old").mesh.peers.size, 1);
  assert.deepEqual(kinds(room.pending), ["old offer"]);
  assert.equal(member("old").shown.at(-1).replaced.connection, before);
});

test("a peer that is away stays, a peer that left is removed although media flows", async () => {
  const { member } = await connectedPair();
  const { client, mesh } = member("old");
  client.fire("peer_changed", { peer: "new", state: "away" });
  assert.equal(mesh.peers.get("new").presence, "away");
  client.fire("peer_left", { peer: "new", reason: "bye" });
  assert.equal(mesh.peers.size, 0);
});

test("a peer that was removed from the room is gone although media flows", async () => {
  const { member } = await connectedPair();
  const { client, mesh } = member("old");
  client.fire("peer_left", { peer: "new", reason: "kicked" });
  assert.equal(mesh.peers.size, 0);
});

test("a peer whose session expired stays, and is taken back as it was, while its media flows", async () => {
  const { member, clock } = await connectedPair();
  const { client, mesh } = member("old");
  const connection = member("old").link("new");
  client.fire("peer_left", { peer: "new", reason: "expired" });
  clock.advance(300_000);
  assert.equal(mesh.peers.get("new").presence, "unconfirmed");
  client.fire("peer_joined", { ...entry("new", { polite: false }), resync: false });
  assert.equal(mesh.peers.get("new").presence, "here");
  assert.equal(member("old").link("new"), connection);
  client.fire("peer_left", { peer: "new", reason: "expired" });
  connection.become("failed");
  clock.advance(60_000);
  assert.equal(mesh.peers.size, 0);
});

test("a peer that a fresh snapshot does not name stays while its media flows", async () => {
  const { member, clock } = await connectedPair();
  const { client, mesh } = member("old");
  client.fire("welcome", welcome({ outcome: "resync" }));
  clock.advance(300_000);
  assert.equal(mesh.peers.size, 1);
  member("old").link("new").become("failed");
  clock.advance(60_000);
  assert.equal(mesh.peers.size, 0);
});

test("a peer that came back without knowing of the old connection gets a fresh one on both sides", async () => {
  const { room, member } = await connectedPair();
  const [before, kept] = [member("old").link("new"), member("new").link("old")];
  // The server told "old" that "new" expired while its media was lost too; "new" noticed nothing and keeps its half.
  before.become("disconnected");
  member("old").client.fire("peer_left", { peer: "new", reason: "expired" });
  member("old").client.fire("peer_joined", { ...entry("new", { polite: false }), resync: false });
  await room.deliverAll();
  assert.ok(before.closed && kept.closed);
  assert.equal(member("old").link("new").signalingState, "stable");
  assert.equal(member("new").link("old").signalingState, "stable");
  assert.equal(member("new").shown.length, 2);
});

test("failed media is restarted by the impolite side at once, by the polite side only later", async () => {
  const { member, clock } = await connectedPair();
  member("old").link("new").become("failed");
  member("new").link("old").become("failed");
  clock.advance(0);
  assert.deepEqual([member("old").link("new").restarts, member("new").link("old").restarts], [1, 0]);
  member("new").link("old").become("connected");
  clock.advance(60_000);
  assert.equal(member("new").link("old").restarts, 0);
});

test("a short disconnection that heals is left alone", async () => {
  const { member, clock } = await connectedPair();
  member("old").link("new").become("disconnected");
  clock.advance(2_999);
  member("old").link("new").become("connected");
  clock.advance(60_000);
  assert.equal(member("old").link("new").restarts, 0);
});

test("media that no ICE restart repairs gets a fresh connection", async () => {
  const { member, clock, room } = await connectedPair();
  const before = member("old").link("new");
  before.become("failed");
  for (let turn = 0; turn < 12; turn += 1) {
    clock.advance(30_000);
    await room.deliverAll();
  }
  assert.ok(before.closed);
  assert.ok(before.restarts >= 2);
  assert.equal(member("new").mesh.peers.size, 1);
});

test("fresh ICE servers reach every connection", async () => {
  const { member } = await connectedPair();
  const { client } = member("old");
  client.ice = [{ urls: ["turn:fresh"] }];
  client.fire("ice", { servers: client.ice });
  assert.deepEqual(member("old").link("new").configuration.iceServers, client.ice);
});

test("before its credentials end a relayed connection moves to fresh ones, of a push or of a welcome, and so does the other side", async () => {
  const { room, member, clock } = twoInARoom("new", { servers: [], expires_in_ms: 20_000 });
  await room.deliverAll();
  const links = [member("old").link("new"), member("new").link("old")];
  for (const link of links) link.become("connected");
  links[0].pair = { local: "relay", remote: "host" };
  const { client } = member("old");
  const room_of_two = { name: "r", version: 1, peers: [entry("new", { polite: false })] };
  const fresh = [
    () => client.fire("ice", { servers: [], expires_in_ms: 20_000 }),
    () => client.fire("welcome", welcome({ outcome: "resumed", ice: { servers: [], expires_in_ms: 20_000 }, room: room_of_two })),
  ];
  for (const [index, come] of fresh.entries()) {
    clock.advance(5_000);
    come();
    await room.deliverAll();
    assert.equal(links[0].restarts, index, "not before it has to be");
    clock.advance(2_000);
    assert.deepEqual(kinds(await room.deliverAll()), ["old offer", "new answer"]);
    assert.deepEqual(links.map(({ restarts }) => restarts), [index + 1, 0]);
  }
});

for (const outcome of ["resumed", "resync"]) {
  test(`the ICE servers of a welcome that says ${outcome} reach standing connections`, async () => {
    const { member } = await connectedPair();
    const { client } = member("old");
    client.ice = [{ urls: ["turn:fresh"] }];
    client.fire("welcome", welcome({ outcome, ice: { servers: client.ice }, room: { name: "r", version: 1, peers: [entry("new", { polite: false })] } }));
    assert.deepEqual(member("old").link("new").configuration.iceServers, client.ice);
  });
}

test("every error that a TURN server answers is reported, what the browser says of its own is not", async () => {
  const { member } = await connectedPair();
  const link = member("old").link("new");
  for (const errorCode of [401, 403, 486, 508, 701, 0]) link.onicecandidateerror({ url: `turn:${errorCode}`, errorCode });
  assert.deepEqual(member("old").client.reports.map(([, code]) => code), [401, 403, 486, 508]);
});

test("a refused TURN credential is reported once per server and minute", async () => {
  const { member, clock } = await connectedPair();
  const link = member("old").link("new");
  const refuse = (url, errorCode) => link.onicecandidateerror({ url, errorCode });
  refuse("turn:a", 401);
  refuse("turn:a", 401);
  refuse("turn:b", 701);
  clock.advance(60_000);
  refuse("turn:a", 401);
  assert.deepEqual(member("old").client.reports, [["turn:a", 401], ["turn:a", 401]]);
});

test("a track is swapped without a negotiation once it has been sent", async () => {
  const { room, member } = await connectedPair();
  await member("old").mesh.setTrack("video", { kind: "video", id: "camera" });
  await room.deliverAll();
  await member("old").mesh.setTrack("video", { kind: "video", id: "screen" });
  await settled();
  assert.deepEqual(room.pending, []);
});

test("a negotiation that was answered leaves nothing behind that could restart ICE later", async () => {
  const { room, member, clock } = await connectedPair();
  await member("old").mesh.setTrack("video", { kind: "video", id: "camera" });
  await room.deliverAll();
  clock.advance(60_000);
  assert.equal(member("old").link("new").restarts, 0);
});

test("a flood of nonsense from a peer neither throws nor stops what follows", async () => {
  const { room, member, clock } = twoInARoom();
  await settled();
  const offer = room.take();
  const nonsense = [{}, { description: null }, { description: { type: "rollback" } }, { description: { type: "offer", sdp: "junk" } }, { description: { type: "answer" } }, { candidate: null }, { candidate: { candidate: "x" } }, { candidate: 7 }];
  for (const body of nonsense) void member("new").hear({ from: "old", body: { negotiation: "x", ...body } });
  void member("new").hear(offer);
  const link = member("new").link("old");
  await room.deliverAll();
  clock.advance(2_000);
  assert.equal(member("old").link("new").signalingState, "stable");
  assert.equal(member("new").link("old"), link);
});

/** "old" is in the room, "new" joins. */
function twoInARoom(polite = "new", ice = { servers: [] }) {
  const { add, ...rest } = lab();
  const [first, second] = [add("old"), add("new")];
  first.client.fire("welcome", welcome({ ice }));
  second.client.fire("welcome", welcome({ ice, room: { name: "r", version: 1, peers: [entry("old", { polite: polite === "new" })] } }));
  first.client.fire("peer_joined", { ...entry("new", { polite: polite === "old" }), resync: false });
  return rest;
}

async function connectedPair() {
  const pair = twoInARoom();
  await pair.room.deliverAll();
  pair.member("old").link("new").become("connected");
  pair.member("new").link("old").become("connected");
  return pair;
}

/** Members whose signals wait in `room.pending` until a test delivers them. */
function lab() {
  const clock = new VirtualClock();
  const members = new Map();
  const room = {
    pending: [],
    take: () => room.pending.shift(),
    /** Delivers until nobody says anything more; returns all that was said. */
    async deliverAll() {
      const delivered = [];
      await settled();
      while (room.pending.length > 0) {
        assert.ok(delivered.length < 100, "they never stop talking");
        const signal = room.take();
        delivered.push(signal);
        await members.get(signal.to)?.hear(signal);
        await settled();
      }
      return delivered;
    },
  };
  const add = (id) => {
    class FakeClient extends EventTarget {
      ice = [];
      reports = [];
      signal(to, body) {
        room.pending.push({ from: id, to, body });
      }
      report(url, code) {
        this.reports.push([url, code]);
      }
      fire(type, detail) {
        this.dispatchEvent(new CustomEvent(type, { detail }));
      }
    }
    const client = new FakeClient();
    const mesh = new Mesh({ client, stream: {}, clock, createConnection: (configuration) => new FakeConnection(configuration) });
    const shown = [];
    mesh.addEventListener("peer", ({ detail }) => shown.push(detail));
    members.set(id, {
      client, mesh, shown,
      peer: (other) => mesh.peers.get(other),
      link: (other) => mesh.peers.get(other).connection,
      hear: async ({ from, body }) => mesh.peers.get(from)?.receive(body),
    });
    return members.get(id);
  };
  return { clock, room, add, member: (id) => members.get(id) };
}

function kinds(signals) {
  return signals.map(({ from, body }) => `${from} ${body.description?.type ?? "candidate"}`);
}
