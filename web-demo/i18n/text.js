// @ts-check
/**
 * The page's words in the chosen language. Elements name their text in `data-t` (content), `data-t-label`
 * (aria-label), `data-t-placeholder` and `data-t-title`, and follow when the language is switched.
 *
 * @import { TextKey } from "./en.js"
 */

import { recall } from "../memory.js";
import { en } from "./en.js";
import { ko } from "./ko.js";

/** @type {Record<string, Record<TextKey, string>>} */
const LANGUAGES = { en, ko };

/** Fires `change` after a switch. */
export const language = new (class Language extends EventTarget {
  code = "en";

  /** @param {string} code */
  use(code) {
    this.code = code in LANGUAGES ? code : "en";
    document.documentElement.lang = this.code;
    document.title = t("title");
    translate(document);
    this.dispatchEvent(new Event("change"));
  }

  /** The other of the two. */
  get other() {
    return this.code === "ko" ? "en" : "ko";
  }
})();

/**
 * @param {TextKey} key
 * @param {Record<string, string | number>} [values] for the {places} in the text
 */
export function t(key, values = {}) {
  return LANGUAGES[language.code][key].replace(/\{(\w+)\}/g, (place, name) => String(values[name] ?? place));
}

/**
 * Which language to start in: asked for, remembered, or the browser's.
 * @param {string | null} asked
 */
export function preferredLanguage(asked) {
  const wishes = [asked, recall("call.language"), ...navigator.languages];
  for (const wish of wishes) {
    const code = wish?.slice(0, 2).toLowerCase();
    if (code !== undefined && code in LANGUAGES) return code;
  }
  return "en";
}

/** @param {ParentNode} root */
export function translate(root) {
  /** @type {[string, (element: HTMLElement, text: string) => void][]} */
  const places = [
    ["t", (element, text) => (element.textContent = text)],
    ["tLabel", (element, text) => element.setAttribute("aria-label", text)],
    ["tPlaceholder", (element, text) => element.setAttribute("placeholder", text)],
    ["tTitle", (element, text) => element.setAttribute("title", text)],
  ];
  for (const [name, put] of places) {
    const attribute = `data-${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    for (const element of root.querySelectorAll(`[${attribute}]`)) {
      if (element instanceof HTMLElement) put(element, t(/** @type {TextKey} */ (element.dataset[name])));
    }
  }
}

/**
 * Gives an element a text that follows the language.
 * @param {HTMLElement} element
 * @param {TextKey} key
 */
export function setText(element, key) {
  element.dataset.t = key;
  element.textContent = t(key);
}

/**
 * Gives a control its accessible name and tooltip.
 * @param {HTMLElement} element
 * @param {TextKey} key
 */
export function setLabel(element, key) {
  element.dataset.tLabel = key;
  element.dataset.tTitle = key;
  element.setAttribute("aria-label", t(key));
  element.title = t(key);
}
