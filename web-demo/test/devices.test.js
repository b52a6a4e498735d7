import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { LocalMedia } from "../devices.js";
import { settled } from "./virtual.js";

/** Questions of the browser that nobody has answered yet. */
let asked = [];
/** Every track that was handed out. */
let handed = [];

beforeEach(() => {
  asked = [];
  handed = [];
  globalThis.MediaStream = class {};
  const ask = (what) => (constraints) => new Promise((resolve, reject) => asked.push({ what, constraints, resolve, reject }));
  setMediaDevices(Object.assign(new EventTarget(), { getUserMedia: ask("devices"), getDisplayMedia: ask("screen") }));
});

test("what is chosen while the browser asks goes before its answer", async () => {
  const media = new LocalMedia();
  void media.start();
  await media.choose("video", "none");
  grant("audio", "video");
  await settled();
  assert.deepEqual(live(), ["audio"]);
  assert.equal(media.outgoing("video"), null);
});

test("a camera switched off while the browser asks stays off", async () => {
  const media = new LocalMedia();
  void media.start();
  await media.setCamera(false);
  grant("audio", "video");
  await settled();
  assert.deepEqual(live(), ["audio"]);
});

test("permission given after hanging up opens nothing", async () => {
  const media = new LocalMedia();
  void media.start();
  media.stop();
  grant("audio", "video");
  await settled();
  assert.deepEqual(live(), []);
  assert.equal(media.outgoing("audio"), null);
});

test("permission refused after hanging up asks for nothing more", async () => {
  const media = new LocalMedia();
  void media.start();
  media.stop();
  asked.shift().reject(new DOMException("", "NotAllowedError"));
  await settled();
  assert.deepEqual(asked, []);
});

test("when one answer for both fails, a kind that was chosen meanwhile is left alone", async () => {
  const media = new LocalMedia();
  void media.start();
  await media.choose("audio", "none");
  asked.shift().reject(new DOMException("", "NotFoundError"));
  await settled();
  assert.deepEqual(asked.map(({ constraints }) => Object.keys(constraints)), [["video"]]);
});

test("a second start gives the first one's devices back", async () => {
  const media = new LocalMedia();
  for (let time = 0; time < 2; time += 1) {
    void media.start();
    grant("audio", "video");
    await settled();
  }
  assert.deepEqual(live(), ["audio", "video"]);
});

test("a choice made after hanging up is remembered and opens nothing", async () => {
  const media = await started();
  media.stop();
  await media.choose("video", "camera-2");
  assert.deepEqual(asked, []);
  assert.deepEqual(live(), []);
  assert.equal(media.choice.video, "camera-2");
});

test("coming back keeps a camera off that was switched off, and remembers which one it was", async () => {
  const media = new LocalMedia();
  media.choice.video = "camera-2";
  await started(media);
  await media.setCamera(false);
  media.stop();
  void media.start();
  assert.deepEqual(asked.map(({ constraints }) => Object.keys(constraints)), [["audio"]]);
  grant("audio");
  await settled();
  assert.deepEqual(live(), ["audio"]);
  void media.setCamera(true);
  assert.deepEqual(asked[0].constraints.video.deviceId, { exact: "camera-2" });
});

test("a camera that failed may be tried again", async () => {
  const media = new LocalMedia();
  const problems = listen(media);
  void media.start();
  for (let question = 0; question < 3; question += 1) {
    asked.shift().reject(new DOMException("", "NotAllowedError"));
    await settled();
  }
  assert.deepEqual(problems, ["denied"]);
  media.choice = { audio: "default", video: "default" };
  void media.start();
  grant("audio", "video");
  await settled();
  assert.deepEqual(live(), ["audio", "video"]);
});

test("without HTTPS the missing devices are told of once, and what needs no device is kept", async () => {
  setMediaDevices(undefined);
  const media = new LocalMedia();
  const problems = listen(media);
  await media.start();
  assert.deepEqual(media.choice, { audio: "none", video: "none" });
  assert.deepEqual(problems, ["insecure"]);
  media.stop();
  media.choice = { audio: "none", video: "test" };
  media.cameraOn = false;
  await media.start();
  assert.deepEqual(media.choice, { audio: "none", video: "test" });
  assert.deepEqual(problems, ["insecure"]);
});

test("a screen chosen after hanging up is not shared", async () => {
  const media = await started();
  void media.shareScreen();
  media.stop();
  grant("video");
  await settled();
  assert.equal(media.sharing, false);
  assert.deepEqual(live(), []);
});

test("one question which screen to share is open at a time, and each call asks its own", async () => {
  const media = await started();
  void media.shareScreen();
  void media.shareScreen();
  assert.equal(asked.length, 1);
  media.stop();
  void media.start();
  void media.shareScreen();
  const [earlier, , later] = asked;
  answer(earlier, "video");
  await settled();
  assert.equal(media.sharing, false);
  answer(later, "video");
  await settled();
  assert.equal(media.outgoing("video"), handed.at(-1));
});

test("the end of an earlier screen does not end the present one", async () => {
  const media = await started();
  const screens = [];
  for (let time = 0; time < 2; time += 1) {
    void media.shareScreen();
    grant("video");
    await settled();
    screens.push(handed.at(-1));
    if (time === 0) media.stopScreen();
  }
  screens[0].dispatchEvent(new Event("ended"));
  assert.equal(media.outgoing("video"), screens[1]);
  screens[1].dispatchEvent(new Event("ended"));
  assert.equal(media.sharing, false);
});

/** Answers the oldest question with tracks of these kinds. */
function grant(...kinds) {
  answer(asked.shift(), ...kinds);
}

function answer(question, ...kinds) {
  const tracks = kinds.map((kind) => {
    const track = Object.assign(new EventTarget(), { kind, enabled: true, live: true, getSettings: () => ({}), stop: () => (track.live = false) });
    return track;
  });
  handed.push(...tracks);
  question.resolve({ getTracks: () => tracks, getVideoTracks: () => tracks.filter(({ kind }) => kind === "video") });
}

/** The kinds of the devices that are on, as their lights would show. */
function live() {
  return handed.filter((track) => track.live).map(({ kind }) => kind);
}

async function started(media = new LocalMedia()) {
  void media.start();
  grant("audio", "video");
  await settled();
  return media;
}

function listen(media) {
  const problems = [];
  media.addEventListener("problem", ({ detail }) => problems.push(detail.problem));
  return problems;
}

function setMediaDevices(mediaDevices) {
  Object.defineProperty(globalThis, "navigator", { value: { mediaDevices }, configurable: true });
}
