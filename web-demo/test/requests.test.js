import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { EventStreamSocket, PollSocket } from "../sdk/requests.js";

const URL = "wss://host:1/v1/rooms/r/ws";
const FETCH = globalThis.fetch;

/** Requests in the order in which they were made; a test answers each. */
let requests;
/** @type {(() => void) | undefined} */
let arrived;

beforeEach(() => {
  requests = [];
  globalThis.fetch = (url, { body, headers, signal, keepalive = false }) =>
    new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(new Error("aborted")));
      const key = new Headers(headers).get("signaling-connection");
      requests.push({ url, body, key, keepalive, answer: (content, init) => resolve(new Response(content, init)), fail: () => reject(new TypeError("network")) });
      arrived?.();
    });
});
afterEach(() => void (globalThis.fetch = FETCH));

test("a hello opens the event stream, and its events are the frames", async () => {
  const { socket, seen } = await open(EventStreamSocket);
  socket.send("hello");
  const request = await made(1);
  assert.deepEqual([request.url, request.body, request.key], ["https://host:1/v1/rooms/r/events", "hello", null]);
  const stream = answerWithStream(request);
  // In pieces that end anywhere, with a comment and a frame over two lines.
  for (const piece of ['event: open\nda', 'ta: {"connection":"k"}\n\n:\n\ndata: one\n', "\ndata: t", "wo\ndata: lines\n\n"]) stream.write(piece);
  await until(() => seen.length === 2);
  assert.deepEqual(seen, ["one", "two\nlines"]);
  stream.write('event: close\ndata: {"code":4203,"reason":"replaced"}\n\n');
  await until(() => seen.length === 3);
  assert.equal(seen[2], 4203);
});

test("frames go out one request after the other, and those that wait go together", async () => {
  const { socket } = await open(EventStreamSocket);
  socket.send("hello");
  const stream = answerWithStream(await made(1));
  stream.write('event: open\ndata: {"connection":"k"}\n\ndata: welcome\n\n');
  await until(() => socket.heardAny);
  for (const text of ["1", "2", "3"]) socket.send(text);
  const first = await made(2);
  assert.deepEqual([first.url, first.body, first.key, first.keepalive], ["https://host:1/v1/rooms/r/messages", "1", "k", true]);
  first.answer("");
  const second = await made(3);
  assert.equal(second.body, "2\n3");
  socket.send("é".repeat(20_000));
  socket.send("x".repeat(40_000));
  second.answer("");
  const third = await made(4);
  assert.equal(third.body.length, 20_000, "a body holds no more than the server takes");
  assert.equal(third.keepalive, false);
  socket.close();
});

test("frames that find no connection any more close it", async () => {
  const { socket, seen } = await open(PollSocket);
  socket.send("hello");
  (await made(1)).answer('{"connection":"k","frames":[{}]}');
  await made(2);
  socket.send("1");
  (await made(3)).answer("say hello again", { status: 404 });
  await until(() => seen.length === 2);
  assert.equal(seen[1], 1006);
});

test("a poll is followed by the next one until the answer says that it is over", async () => {
  const { socket, seen } = await open(PollSocket);
  socket.send("hello");
  (await made(1)).answer('{"connection":"k","frames":[{"a":1}]}');
  const second = await made(2);
  assert.deepEqual([second.url, second.body, second.key], ["https://host:1/v1/rooms/r/poll", "", "k"]);
  second.answer('{"frames":[]}');
  (await made(3)).answer('{"frames":[{"a":2},{"a":3}],"close":{"code":4000,"reason":"going_away"}}');
  await until(() => seen.length === 4);
  assert.deepEqual(seen, ['{"a":1}', '{"a":2}', '{"a":3}', 4000]);
  assert.equal(requests.length, 3);
});

for (const Socket of [EventStreamSocket, PollSocket]) {
  test(`whatever goes wrong closes the ${Socket.name} once, as a lost WebSocket`, async () => {
    for (const wrong of [
      (request) => request.fail(),
      (request) => request.answer("no such connection", { status: 404 }),
      (request) => request.answer("<html>please log in</html>"),
    ]) {
      requests = [];
      const { socket, seen } = await open(Socket);
      socket.send("hello");
      wrong(await made(1));
      await until(() => seen.length > 0);
      assert.deepEqual(seen, [1006]);
      assert.equal(socket.readyState, 3);
    }
  });

  test(`a ${Socket.name} that was closed says nothing more`, async () => {
    const { socket, seen } = await open(Socket);
    socket.send("hello");
    await made(1);
    socket.close();
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(seen, []);
  });
}

async function open(Socket) {
  const socket = new Socket(URL, ["signaling.v1"]);
  const seen = [];
  const opened = new Promise((resolve) => void (socket.onopen = resolve));
  socket.onmessage = ({ data }) => {
    socket.heardAny = true;
    seen.push(data);
  };
  socket.onclose = ({ code }) => seen.push(code);
  await opened;
  return { socket, seen };
}

/** The request of that number, counted from one, when it has been made. */
async function made(number) {
  while (requests.length < number) await new Promise((resolve) => void (arrived = resolve));
  return requests[number - 1];
}

function answerWithStream(request) {
  let controller;
  const body = new ReadableStream({ start: (given) => void (controller = given) });
  request.answer(body, { headers: { "content-type": "text/event-stream" } });
  return { write: (text) => controller.enqueue(new TextEncoder().encode(text)) };
}

async function until(holds) {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}
