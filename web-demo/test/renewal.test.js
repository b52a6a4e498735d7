import assert from "node:assert/strict";
import { test } from "node:test";

import { Renewal } from "../sdk/renewal.js";
import { FakeConnection, VirtualClock, settled } from "./virtual.js";

/** A connection whose candidates were gathered with credentials of that life, and what it did. */
function gathered({ life_ms = 20_000, local = "relay", remote = "relay" } = {}) {
  const clock = new VirtualClock();
  const connection = Object.assign(new FakeConnection({}), { connectionState: "connected", pair: { local, remote } });
  const restarts = [];
  const renewal = new Renewal({ connection, clock, restart: () => restarts.push(clock.now()) });
  renewal.configured(life_ms);
  renewal.gathered("first");
  const advance = async (ms) => {
    clock.advance(ms);
    await settled();
  };
  return { clock, connection, renewal, restarts, advance };
}

for (const [local, remote, times] of [["relay", "relay", 1], ["relay", "srflx", 1], ["host", "relay", 0], ["srflx", "srflx", 0]]) {
  test(`a connection from ${local} to ${remote} restarts ICE ${times} times for fresh credentials`, async () => {
    const { renewal, restarts, advance } = gathered({ local, remote });
    await advance(5_000);
    renewal.configured(25_000);
    await advance(1_999);
    assert.deepEqual(restarts, []);
    await advance(1);
    assert.deepEqual(restarts, Array(times).fill(7_000));
  });
}

test("short credentials are left thirteen seconds before their end, long ones at three quarters, and very long ones five minutes before it", async () => {
  for (const [life_ms, at_ms] of [[20_000, 7_000], [100_000, 75_000], [43_200_000, 42_900_000]]) {
    const { renewal, restarts, advance } = gathered({ life_ms });
    renewal.configured(life_ms * 2);
    await advance(at_ms - 1);
    assert.deepEqual(restarts, []);
    await advance(1);
    assert.deepEqual(restarts, [at_ms]);
  }
});

test("without fresher credentials nothing is restarted; when they come late it is done at once", async () => {
  const { renewal, restarts, advance } = gathered();
  await advance(12_000);
  assert.deepEqual(restarts, []);
  renewal.configured(32_000);
  await advance(0);
  assert.deepEqual(restarts, [12_000]);
});

test("a restart of the other side's renews ours too", async () => {
  const { renewal, restarts, advance } = gathered();
  await advance(5_000);
  renewal.configured(25_000);
  await advance(1_000);
  renewal.gathered("second");
  await advance(5_000);
  assert.deepEqual(restarts, []);
  renewal.configured(30_000);
  // Said again, a description is no other generation.
  renewal.gathered("second");
  await advance(1_000);
  assert.deepEqual(restarts, [12_000]);
});

test("one that is being mended is left alone until it is connected", async () => {
  const { connection, renewal, restarts, advance } = gathered();
  await advance(5_000);
  renewal.configured(25_000);
  connection.connectionState = "disconnected";
  await advance(3_000);
  assert.deepEqual(restarts, []);
  connection.connectionState = "connected";
  await advance(1_000);
  assert.equal(restarts.length, 1);
});

test("credentials that do not end are never renewed, and neither is a connection that is closed", async () => {
  const { renewal, restarts, advance } = gathered({ life_ms: Infinity });
  await advance(1e9);
  renewal.configured(2e9);
  await advance(1e9);
  const closed = gathered();
  closed.renewal.configured(25_000);
  closed.renewal.cancel();
  await closed.advance(20_000);
  assert.deepEqual([restarts, closed.restarts], [[], []]);
});
