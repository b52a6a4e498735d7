// @ts-check
/** Single-key shortcuts of a call; they can be switched off (WCAG 2.1.4) and never fire while somebody types. */

import { byId, make } from "./element.js";
import { language, t } from "./i18n/text.js";
import { recall, remember } from "./memory.js";

/** @import { TextKey } from "./i18n/en.js" */

const ENABLED_KEY = "call.shortcuts";

/** @type {{ key: string, shift?: boolean, shown: string, text: TextKey, button: string }[]} */
const SHORTCUTS = [
  { key: "m", shown: "M", text: "mute", button: "mute" },
  { key: "v", shown: "V", text: "camera", button: "camera" },
  { key: "s", shown: "S", text: "screen_share", button: "screen" },
  { key: "c", shown: "C", text: "chat", button: "chat-toggle" },
  { key: "l", shown: "L", text: "copy_link", button: "copy-room" },
  { key: ",", shown: ",", text: "settings", button: "settings-open" },
  { key: "?", shown: "?", text: "help", button: "help-open" },
  { key: "h", shift: true, shown: "Shift + H", text: "hangup", button: "hangup" },
];

/** @param {AbortSignal} signal ends the listening */
export function listenToKeys(signal) {
  const enabled = byId("keys-enabled", HTMLInputElement);
  enabled.checked = recall(ENABLED_KEY) !== "off";
  enabled.addEventListener("change", () => remember(ENABLED_KEY, enabled.checked ? "on" : "off"), { signal });
  showKeys();
  language.addEventListener("change", showKeys, { signal });
  document.addEventListener("keydown", (event) => {
    if (!enabled.checked || event.repeat || isTyping(event.target)) return;
    if (document.querySelector("dialog[open]") !== null) return;
    const shortcut = shortcutOf(event);
    if (shortcut === undefined) return;
    event.preventDefault();
    byId(shortcut.button).click();
  }, { signal });
}

/**
 * Letters are what the keyboard writes, or under an input method that writes no Latin letters (Hangul) what is printed
 * on the key. Shift tells hanging up from nothing, so that Caps Lock does not hang up.
 * @param {Pick<KeyboardEvent, "key" | "code" | "shiftKey" | "ctrlKey" | "metaKey" | "altKey" | "isComposing">} event
 */
export function shortcutOf(event) {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return undefined;
  const printed = /^Key([A-Z])$/.exec(event.code)?.[1];
  const letter = /^[a-z]$/i.test(event.key) ? event.key : /^[\x21-\x7e]$/.test(event.key) ? undefined : printed;
  if (letter === undefined) return SHORTCUTS.find(({ key }) => key === event.key);
  return SHORTCUTS.find(({ key, shift = false }) => key === letter.toLowerCase() && shift === event.shiftKey);
}

function showKeys() {
  byId("keys").replaceChildren(
    ...SHORTCUTS.map(({ shown, text }) => make("div", "key-row", make("dt", "", make("kbd", "", shown)), make("dd", "", t(text)))),
  );
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof HTMLElement && target.closest("input, select, textarea, [contenteditable]") !== null;
}
