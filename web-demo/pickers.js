// @ts-check
/**
 * The selects for camera, microphone and speaker; the same ones before and during a call. They follow devices that
 * come and go.
 *
 * @import { LocalMedia } from "./devices.js"
 * @import { Kind } from "./sdk/peer.js"
 * @import { TextKey } from "./i18n/en.js"
 */

import { devices } from "./devices.js";
import { icon, make } from "./element.js";
import { language, t } from "./i18n/text.js";

/** @type {Record<Kind, { device: MediaDeviceKind, label: TextKey, icon: string, nth: TextKey, test: TextKey, none: TextKey }>} */
const KINDS = {
  video: { device: "videoinput", label: "camera", icon: "camera", nth: "choice_camera_n", test: "choice_test_picture", none: "choice_no_camera" },
  audio: { device: "audioinput", label: "microphone", icon: "mic", nth: "choice_microphone_n", test: "choice_test_tone", none: "choice_no_microphone" },
};

/** Where sound comes out; every video element of the call follows it. */
export const speaker = new (class Speaker extends EventTarget {
  id = "";

  /** @param {string} id */
  use(id) {
    this.id = id;
    this.dispatchEvent(new Event("change"));
  }
})();

const canChooseSpeaker = "setSinkId" in HTMLMediaElement.prototype;

/**
 * Fills a container with the pickers and keeps them right.
 * @param {HTMLElement} container
 * @param {LocalMedia} media
 */
export function showPickers(container, media) {
  const selects = /** @type {Record<Kind, HTMLSelectElement>} */ ({});
  for (const kind of /** @type {Kind[]} */ (["video", "audio"])) {
    const select = picker(container, KINDS[kind].label, KINDS[kind].icon);
    select.dataset.kind = kind;
    select.addEventListener("change", () => void media.choose(kind, select.value));
    selects[kind] = select;
  }
  const output = canChooseSpeaker ? picker(container, "speaker", "speaker") : undefined;
  output?.addEventListener("change", () => speaker.use(output.value));

  const refresh = async () => {
    for (const kind of /** @type {Kind[]} */ (["video", "audio"])) {
      fill(selects[kind], await inputOptions(kind), chosen(media, kind));
    }
    if (output !== undefined) await fillSpeakers(output);
  };
  media.addEventListener("change", () => void refresh());
  language.addEventListener("change", () => void refresh());
  void refresh();
}

/**
 * @param {HTMLElement} container
 * @param {TextKey} label
 * @param {string} symbol
 */
function picker(container, label, symbol) {
  const text = make("span", "visually-hidden", t(label));
  text.dataset.t = label;
  const select = make("select");
  container.append(make("label", "picker", icon(symbol), text, select));
  return select;
}

/** @param {Kind} kind @returns {Promise<[string, string][]>} */
async function inputOptions(kind) {
  const { device, nth, test, none } = KINDS[kind];
  const found = await devices(device);
  return [
    ...found.map(({ deviceId, label }, index) => /** @type {[string, string]} */ ([deviceId, label || t(nth, { n: index + 1 })])),
    ["test", t(test)],
    ["none", t(none)],
  ];
}

/** @param {HTMLSelectElement} select */
async function fillSpeakers(select) {
  const found = (await devices("audiooutput")).filter(({ deviceId }) => deviceId !== "default");
  const options = found.map(({ deviceId, label }, index) => /** @type {[string, string]} */ ([deviceId, label || t("choice_speaker_n", { n: index + 1 })]));
  fill(select, [["", t("choice_default_speaker")], ...options], speaker.id);
  const row = /** @type {HTMLElement} */ (select.parentElement);
  row.hidden = options.length === 0;
}

/**
 * The device that "default" turned out to be.
 * @param {LocalMedia} media
 * @param {Kind} kind
 */
function chosen(media, kind) {
  const choice = media.choice[kind];
  return choice === "default" ? (media.device(kind) ?? choice) : choice;
}

/**
 * @param {HTMLSelectElement} select
 * @param {[string, string][]} options
 * @param {string} value
 */
function fill(select, options, value) {
  select.replaceChildren(...options.map(([id, text]) => new Option(text, id)));
  select.value = value;
}
