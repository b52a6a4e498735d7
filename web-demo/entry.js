// @ts-check
/** What lets a person into a room: the token that came with the link, and the room's password. Neither is ever in an address that leaves the browser. */

import { byId } from "./element.js";

/** At the end of the fragment: `#room&token=...`. */
const TOKEN = /(?:^|&)token=([\x21-\x25\x27-\x7e]+)$/;

/**
 * Splits a fragment into what names the room and the token.
 * @param {string} fragment with its `#`
 * @returns {{ rest: string, token: string | undefined }}
 */
export function splitFragment(fragment) {
  const token = TOKEN.exec(fragment.slice(1))?.[1];
  return { rest: token === undefined ? fragment : `#${fragment.slice(1).replace(TOKEN, "")}`, token };
}

/** Takes the token out of the address, so that it is in no bookmark and in no link that is copied. @returns {string | undefined} */
export function takeToken() {
  const { rest, token } = splitFragment(location.hash);
  if (token !== undefined) history.replaceState(null, "", `${location.pathname}${location.search}${rest}`);
  return token;
}

/**
 * The token for this tab and room: the one that came, or the one that came before a reload.
 * @param {string} room
 * @param {string | undefined} token
 * @returns {string | undefined}
 */
export function keepToken(room, token) {
  const key = `call.token.${room}`;
  try {
    if (token !== undefined) sessionStorage.setItem(key, token);
    return sessionStorage.getItem(key) ?? undefined;
  } catch {
    return token; // storage is switched off: it has to come with the link again
  }
}

/**
 * Asks for the room's password.
 * @param {boolean} wrong whether one was said already
 * @returns {Promise<string | undefined>} nothing if the person would rather go back
 */
export function askPassword(wrong) {
  const field = byId("password", HTMLInputElement);
  byId("password-wrong").hidden = !wrong;
  field.toggleAttribute("aria-invalid", wrong);
  field.value = "";
  byId("asked").hidden = false;
  document.body.dataset.view = "ended";
  field.focus();
  const listening = new AbortController();
  return /** @type {Promise<string | undefined>} */ (new Promise((resolve) => {
    byId("password-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value !== "") resolve(field.value);
    }, { signal: listening.signal });
    byId("password-back").addEventListener("click", () => resolve(undefined), { signal: listening.signal });
  })).finally(() => {
    listening.abort();
    byId("asked").hidden = true;
  });
}
