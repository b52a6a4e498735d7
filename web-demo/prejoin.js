// @ts-check
/**
 * Before the call: see and hear yourself, choose devices, say who you are. Works with no device at all.
 *
 * @import { LocalMedia, Problem } from "./devices.js"
 */

import { byId, setIcon } from "./element.js";
import { language, setLabel, setText, t } from "./i18n/text.js";
import { LevelMeter } from "./level.js";
import { recall, remember } from "./memory.js";
import { showPickers } from "./pickers.js";

const NAME_KEY = "call.name";

/**
 * Shows the page until the person joins.
 * @param {LocalMedia} media
 * @param {{ name: string | null }} options a name from the link goes before the remembered one
 * @returns {Promise<string>} the chosen name, possibly empty
 */
export function prejoin(media, options) {
  const section = byId("prejoin");
  const name = byId("name", HTMLInputElement);
  const meter = new LevelMeter(byId("level"));
  name.value = options.name ?? recall(NAME_KEY) ?? "";
  section.hidden = false;
  document.body.dataset.view = "prejoin";

  const listening = new AbortController();
  const { signal } = listening;
  media.addEventListener("change", () => showPreview(media), { signal });
  media.addEventListener("track", (event) => {
    if (/** @type {CustomEvent} */ (event).detail.kind === "audio") meter.watch(media.outgoing("audio"));
    else showPreview(media);
  }, { signal });
  media.addEventListener("problem", (event) => showProblem(/** @type {CustomEvent} */ (event).detail.problem), { signal });
  language.addEventListener("change", () => showPreview(media), { signal });
  byId("preview-mute").addEventListener("click", () => void media.setMuted(!media.muted || !media.hasMicrophone), { signal });
  byId("preview-camera").addEventListener("click", () => void media.setCamera(!media.hasCamera), { signal });
  byId("problem-test").addEventListener("click", () => void useTest(media), { signal });
  byId("problem-watch").addEventListener("click", () => void watchOnly(media), { signal });
  byId("problem-again").addEventListener("click", () => {
    for (const kind of /** @type {const} */ (["audio", "video"])) {
      if (media.choice[kind] === "none") media.choice[kind] = "default";
    }
    void startMedia(media);
  }, { signal });
  showPreview(media);
  meter.watch(media.outgoing("audio"));

  return new Promise((resolve) => {
    byId("join-form").addEventListener("submit", (event) => {
      event.preventDefault();
      listening.abort();
      meter.stop();
      const chosen = cleanName(name.value);
      remember(NAME_KEY, chosen);
      section.hidden = true;
      resolve(chosen);
    }, { signal });
  });
}

/**
 * What the protocol takes as a name: at most 64 characters, no control characters.
 * @param {string} text
 */
function cleanName(text) {
  return [...text.replace(/\p{Cc}/gu, " ").trim()].slice(0, 64).join("");
}

/**
 * Opens the devices and builds the pickers; called once per page.
 * @param {LocalMedia} media
 */
export async function prepareMedia(media) {
  showPickers(byId("pickers"), media);
  showPickers(byId("settings-pickers"), media);
  await startMedia(media);
}

/** @param {LocalMedia} media */
async function startMedia(media) {
  byId("problem").hidden = true;
  setText(byId("preview-note"), "preview_wait");
  await media.start();
  setText(byId("preview-note"), "preview_off");
}

/** @param {LocalMedia} media */
async function useTest(media) {
  byId("problem").hidden = true;
  await media.choose("video", "test");
  if (!media.hasMicrophone) await media.choose("audio", "test");
  byId("join").focus();
}

/** @param {LocalMedia} media */
async function watchOnly(media) {
  byId("problem").hidden = true;
  await media.choose("video", "none");
  await media.choose("audio", "none");
  byId("join").focus();
}

/** @param {Problem} problem */
function showProblem(problem) {
  setText(byId("problem-text"), `problem_${problem}`);
  byId("problem").hidden = false;
  byId("problem-again").hidden = problem === "insecure";
}

/** @param {LocalMedia} media */
function showPreview(media) {
  const video = byId("preview-video", HTMLVideoElement);
  const track = media.outgoing("video");
  const shown = /** @type {MediaStream | null} */ (video.srcObject)?.getVideoTracks()[0] ?? null;
  if (track !== shown) video.srcObject = track === null ? null : new MediaStream([track]);
  byId("preview").toggleAttribute("data-off", track === null);
  byId("preview").toggleAttribute("data-mirror", media.choice.video !== "test");
  showToggles(media, byId("preview-mute"), byId("preview-camera"));
}

/**
 * The two buttons that are the same before and during a call. Their name says what a press does; a pressed state on
 * top of a changing name would say it twice and wrongly.
 * @param {LocalMedia} media
 * @param {HTMLElement} mute
 * @param {HTMLElement} camera
 */
export function showToggles(media, mute, camera) {
  const muted = media.muted || !media.hasMicrophone;
  mute.toggleAttribute("data-active", muted);
  setLabel(mute, muted ? "unmute" : "mute");
  setIcon(mute, muted ? "mic-off" : "mic");
  camera.toggleAttribute("data-active", !media.hasCamera);
  setLabel(camera, media.hasCamera ? "camera_stop" : "camera_start");
  setIcon(camera, media.hasCamera ? "camera" : "camera-off");
  const texts = /** @type {const} */ ([[mute, muted ? "unmute" : "mute"], [camera, media.hasCamera ? "camera_stop" : "camera_start"]]);
  for (const [button, key] of texts) {
    const text = button.querySelector(".control-text");
    if (text !== null) text.textContent = t(key);
  }
}
