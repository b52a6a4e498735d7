// @ts-check
/** Short notes that go away by themselves; screen readers hear them as they come. */

import { byId, make } from "./element.js";

const SHOWN_MS = 4_500;
const AT_ONCE = 4;

/**
 * @param {string} text
 * @param {{ for_ms?: number }} [options]
 */
export function toast(text, { for_ms = SHOWN_MS } = {}) {
  const box = byId("toasts");
  while (box.children.length >= AT_ONCE) box.firstElementChild?.remove();
  const note = make("p", "toast", text);
  // What stays longer may be something to select; the others let clicks through.
  note.toggleAttribute("data-lasting", for_ms > SHOWN_MS);
  box.append(note);
  setTimeout(() => note.remove(), for_ms);
}
