// @ts-check
/** The link is the room: reading it, making one, handing it on. */

import { t } from "./i18n/text.js";
import { roomName } from "./sdk/protocol.js";
import { toast } from "./toast.js";

/** No letters that look alike or make words. */
const LETTERS = "bcdfghjkmnpqrstvwxz";

/**
 * The room that the address names; without one a random room is made and put there.
 * @returns {{ room: string, shown: string }} the name on the wire and as people wrote it
 */
export function roomOfAddress() {
  if (location.hash.length < 2) history.replaceState(null, "", `#${randomRoom()}`);
  const shown = decode(location.hash.slice(1));
  return { room: roomName(shown), shown };
}

/** Eleven letters, 46 bits: nobody guesses their way into a call. */
export function randomRoom() {
  const bytes = crypto.getRandomValues(new Uint32Array(11));
  const letters = [...bytes].map((number) => LETTERS[number % LETTERS.length]).join("");
  return `${letters.slice(0, 4)}-${letters.slice(4, 7)}-${letters.slice(7)}`;
}

/**
 * What to send to others: the room without what concerns only us.
 */
export function invitation() {
  return `${location.origin}${location.pathname}${location.hash}`;
}

/** Copies the invitation, or shows it where it cannot be copied. */
export async function copyInvitation() {
  const link = invitation();
  if (await copyText(link)) toast(t("copied"));
  else toast(t("copy_failed", { link }), { for_ms: 20_000 });
}

/**
 * @param {string} text
 * @returns {Promise<boolean>} whether it is in the clipboard now
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without HTTPS there is no clipboard interface; the old way needs a selection, and that needs a visible field.
    const field = document.createElement("textarea");
    const focused = document.activeElement;
    field.value = text;
    field.readOnly = true;
    field.className = "visually-hidden";
    document.body.append(field);
    try {
      field.select();
      return document.execCommand("copy");
    } catch {
      return false;
    } finally {
      field.remove();
      if (focused instanceof HTMLElement) focused.focus();
    }
  }
}

/** @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
