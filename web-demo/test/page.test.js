import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { bannerFor } from "../banner.js";
import { en } from "../i18n/en.js";
import { ko } from "../i18n/ko.js";
import { grid, spotlight } from "../layout.js";
import { pathOf, videoLimit } from "../path.js";
import { iceConfiguration } from "../relay.js";
import { splitFragment } from "../entry.js";
import { copyText } from "../link.js";
import { shortcutOf } from "../keyboard.js";
import { roomName } from "../sdk/protocol.js";

const page = (name) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");

test("every language has the same texts with the same places in them", () => {
  assert.deepEqual(Object.keys(ko), Object.keys(en));
  const places = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort();
  for (const key of Object.keys(en)) assert.deepEqual(places(ko[key]), places(en[key]), key);
});

test("every text that the page names exists, and every symbol that it draws", () => {
  const symbols = new Set([...page("sprite.svg").matchAll(/symbol id="([\w-]+)"/g)].map(([, id]) => id));
  const html = page("index.html");
  for (const [, key] of html.matchAll(/data-t(?:-\w+)?="(\w+)"/g)) assert.ok(key in en, key);
  for (const [, id] of html.matchAll(/sprite\.svg#([\w-]+)/g)) assert.ok(symbols.has(id), id);
});

test("every text is used somewhere", () => {
  const files = readdirSync(new URL("..", import.meta.url), { recursive: true }).filter((name) => /\.(js|html)$/.test(name) && !/node_modules|^test|^i18n/.test(name));
  const sources = files.map(page).join("\n");
  // Keys are written whole, or put together in a template such as `path_${kind}`.
  const patterns = [...sources.matchAll(/`(\w*\$\{[^}]+\}\w*)`/g)].map(([, template]) => new RegExp(`^${template.replace(/\$\{[^}]+\}/, "\\w+")}$`)).filter((pattern) => pattern.source.includes("_"));
  for (const key of Object.keys(en)) {
    assert.ok(sources.includes(`"${key}"`) || patterns.some((pattern) => pattern.test(key)), key);
  }
});

test("the page asks no other host for anything and has nothing inline", () => {
  const files = readdirSync(new URL("..", import.meta.url), { recursive: true }).filter((name) => /\.(js|css|html|svg)$/.test(name) && !/node_modules|^test/.test(name));
  assert.ok(files.length > 20);
  for (const name of files) {
    const text = page(name).replaceAll("http://www.w3.org/2000/svg", "");
    assert.doesNotMatch(text, /["'(](https?:)?\/\/\w/, name);
  }
  assert.doesNotMatch(page("index.html"), /<style|\sstyle=|\son\w+=|<script(?![^>]*src)/);
});

test("a pair with a relay candidate at either end is relayed, whatever else was gathered", () => {
  const pair = (local, remote) => statistics({ local, remote });
  assert.equal(pathOf(pair("host", "srflx")).kind, "direct");
  assert.equal(pathOf(pair("relay", "host")).kind, "relayed");
  assert.equal(pathOf(pair("prflx", "relay")).kind, "relayed");
  assert.equal(pathOf(pair("host", "host")).rtt_ms, 12);
});

test("without a selected pair the path is still being looked for", () => {
  assert.equal(pathOf(new Map([["c", { type: "local-candidate", candidateType: "relay" }]])).kind, "connecting");
});

test("a browser without transport statistics is read by the pair that it marks", () => {
  const stats = statistics({ local: "relay", remote: "host" });
  stats.delete("T");
  stats.get("P").selected = true;
  assert.equal(pathOf(stats).kind, "relayed");
});

test("the banner tells a lost server from lost media", () => {
  const facts = { signaling: "open", everOpen: true, peers: 1, lost: [] };
  const state = (change) => bannerFor({ ...facts, ...change }).state;
  assert.equal(state({}), "ok");
  assert.equal(state({ signaling: "waiting" }), "signaling-lost");
  assert.equal(state({ signaling: "connecting" }), "signaling-lost");
  assert.equal(state({ lost: ["Ada"] }), "media-lost");
  assert.equal(state({ signaling: "waiting", lost: ["Ada"] }), "media-lost");
  assert.match(bannerFor({ ...facts, lost: ["Ada", "Grace"] }).text, /Ada, Grace/);
});

test("who knocks and was never in the room sees it in the room's place, who was in it is told", () => {
  const facts = { signaling: "waiting", peers: 0, lost: [], code: 4104 };
  assert.equal(bannerFor({ ...facts, everOpen: false }).text, "");
  assert.match(bannerFor({ ...facts, everOpen: true }).text, /knocking/);
});

test("a token is taken from the end of the fragment, whatever the room is called", () => {
  const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJyb29tIjoiciJ9.c2ln_-";
  assert.deepEqual(splitFragment(`#room&token=${jwt}`), { rest: "#room", token: jwt });
  assert.deepEqual(splitFragment(`#%EC%9C%A0%EC%A7%84&token=${jwt}`), { rest: "#%EC%9C%A0%EC%A7%84", token: jwt });
  assert.deepEqual(splitFragment(`#token=${jwt}`), { rest: "#", token: jwt });
  for (const none of ["", "#room", "#room&token=", "#mytoken=abc", "#a&token=b c"]) assert.deepEqual(splitFragment(none), { rest: none, token: undefined });
});

test("relay options keep only the TURN urls of that transport and force the relay", () => {
  const servers = [
    { urls: ["stun:h"] },
    { urls: ["turn:h?transport=udp", "turn:h?transport=tcp", "turn:h", "turns:h"], username: "u", credential: "c" },
  ];
  const urls = (relay) => iceConfiguration(servers, relay).iceServers.flatMap((server) => server.urls);
  assert.deepEqual(urls("udp"), ["turn:h?transport=udp", "turn:h"]);
  assert.deepEqual(urls("tcp"), ["turn:h?transport=tcp", "turns:h"]);
  assert.equal(urls("any").length, 4);
  assert.equal(iceConfiguration(servers, "udp").iceTransportPolicy, "relay");
  assert.deepEqual(iceConfiguration(servers, null).iceServers, servers);
  assert.equal(iceConfiguration(servers, null).iceTransportPolicy, undefined);
});

test("a room may be named in any language and stays within the wire's alphabet", () => {
  assert.equal(roomName("team-1"), "team-1");
  for (const name of ["우리 방", "a/b", "..", "x".repeat(65), "é".repeat(100)]) assert.match(roomName(name), /^[A-Za-z0-9._~-]{3,64}$/);
  assert.notEqual(roomName("우리 방"), roomName("너희 방"));
  assert.notEqual(roomName(`${"긴".repeat(40)}1`), roomName(`${"긴".repeat(40)}2`));
});

test("shortcuts work under a Hangul input method, and hanging up takes Shift", () => {
  const button = (key, code, fields) => shortcutOf({ key, code, shiftKey: false, ctrlKey: false, metaKey: false, altKey: false, isComposing: false, ...fields })?.button;
  assert.equal(button("m", "KeyM"), "mute");
  assert.equal(button("ㅡ", "KeyM"), "mute");
  assert.equal(button("Process", "KeyV"), "camera");
  assert.equal(button("H", "KeyH", { shiftKey: true }), "hangup");
  assert.equal(button("ㅗ", "KeyH", { shiftKey: true }), "hangup");
  assert.equal(button("h", "KeyH", { shiftKey: true }), "hangup");
  assert.equal(button("H", "KeyH"), undefined);
  assert.equal(button("M", "KeyM"), "mute");
  assert.equal(button("?", "Slash", { shiftKey: true }), "help-open");
  // Dvorak writes a comma with the key that says W elsewhere, and m where it always was.
  assert.equal(button(",", "KeyW"), "settings-open");
  assert.equal(button("m", "KeyM", { isComposing: true }), undefined);
  assert.equal(button("c", "KeyC", { ctrlKey: true }), undefined);
});

for (const [works, what] of [[true, "works"], [false, "refuses"]]) {
  test(`where the page has no clipboard, copying says the truth when the old way ${what}`, async () => {
    const body = { fields: [], append: (field) => body.fields.push(field) };
    const field = { select: () => (field.selected = body.fields.includes(field)), remove: () => (body.fields = []) };
    Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
    globalThis.HTMLElement ??= class {};
    globalThis.document = { body, activeElement: null, createElement: () => field, execCommand: () => works && field.selected };
    assert.equal(await copyText("http://host/#room"), works);
    assert.equal(field.value, "http://host/#room");
    assert.deepEqual(body.fields, []);
  });
}

test("a control whose name changes has no pressed state beside it", () => {
  for (const name of ["index.html", "call.js", "prejoin.js", "tile.js"]) assert.doesNotMatch(page(name), /aria-pressed/, name);
});

test("tiles fill the area, never overlap and never leave it", () => {
  for (const area of [{ width: 1256, height: 656, gap: 10 }, { width: 366, height: 700, gap: 10 }, { width: 600, height: 600, gap: 10 }]) {
    for (let count = 1; count <= 7; count += 1) {
      for (const boxes of [grid(area, count), ...Array.from({ length: count }, (_, large) => spotlight(area, count, large))]) {
        assert.equal(boxes.length, count);
        checkBoxes(boxes, area);
      }
    }
  }
});

test("more people means less uplink for each, but never so little that it is useless", () => {
  const limits = [1, 2, 3, 4, 5, 6, 20].map((peers) => videoLimit(peers, false).maxBitrate);
  assert.deepEqual(limits, [...limits].sort((a, b) => b - a));
  assert.ok(limits.at(-1) >= 200_000);
  assert.equal(videoLimit(5, true).scaleResolutionDownBy, 1);
});

function checkBoxes(boxes, area) {
  for (const [index, box] of boxes.entries()) {
    const inside = box.x >= -0.01 && box.y >= -0.01 && box.x + box.width <= area.width + 0.01 && box.y + box.height <= area.height + 0.01;
    assert.ok(inside && box.width > 0, JSON.stringify({ area, boxes }));
    for (const other of boxes.slice(index + 1)) {
      const apart = box.x + box.width <= other.x || other.x + other.width <= box.x || box.y + box.height <= other.y || other.y + other.height <= box.y;
      assert.ok(apart, JSON.stringify({ area, boxes }));
    }
  }
}

function statistics({ local, remote }) {
  return new Map([
    ["T", { type: "transport", selectedCandidatePairId: "P" }],
    ["P", { type: "candidate-pair", localCandidateId: "L", remoteCandidateId: "R", currentRoundTripTime: 0.012 }],
    ["L", { type: "local-candidate", candidateType: local, protocol: "udp" }],
    ["R", { type: "remote-candidate", candidateType: remote, protocol: "udp" }],
    ["other", { type: "local-candidate", candidateType: "relay", protocol: "udp" }],
  ]);
}
