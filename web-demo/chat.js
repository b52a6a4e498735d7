// @ts-check
/**
 * Chat over the data channels. The server never sees a message, and none is kept. Text from others is shown as
 * text and nothing else; how much of it is kept on the page is bounded.
 */

import { byId, make } from "./element.js";
import { t } from "./i18n/text.js";

/** Characters of one message, ours or theirs. */
export const MESSAGE_CHARACTERS = 2_000;
const KEPT_MESSAGES = 300;

export class Chat {
  #unread = 0;
  #listening = new AbortController();

  /** @param {(text: string) => boolean} send false: nobody was there to get it */
  constructor(send) {
    const { signal } = this.#listening;
    byId("chat-toggle").addEventListener("click", () => this.toggle(), { signal });
    byId("chat-close").addEventListener("click", () => this.toggle(false), { signal });
    byId("chat").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.toggle(false);
    }, { signal });
    const input = byId("chat-input", HTMLInputElement);
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = input.value.trim().slice(0, MESSAGE_CHARACTERS);
      if (text === "") return;
      if (!send(text)) {
        this.note(t("chat_alone"));
        return;
      }
      input.value = "";
      this.#add(t("you"), text, true);
    }, { signal });
  }

  /** @param {boolean} [open] */
  toggle(open = byId("chat").hidden !== false) {
    byId("chat").hidden = !open;
    byId("chat-toggle").setAttribute("aria-expanded", String(open));
    this.#setUnread(0);
    if (open) byId("chat-input").focus();
    else byId("chat-toggle").focus();
  }

  /**
   * A message from somebody else.
   * @param {string} name
   * @param {string} text
   * @returns {boolean} whether the person is looking at the chat
   */
  receive(name, text) {
    this.#add(name, text.slice(0, MESSAGE_CHARACTERS), false);
    const open = !byId("chat").hidden;
    if (!open) this.#setUnread(this.#unread + 1);
    return open;
  }

  /** A line that nobody said. @param {string} text */
  note(text) {
    this.#append(make("p", "chat-note", text));
  }

  /** Forgets everything: the call is over. */
  close() {
    this.#listening.abort();
    byId("chat-log").replaceChildren();
    byId("chat").hidden = true;
    byId("chat-toggle").setAttribute("aria-expanded", "false");
    byId("chat-empty").hidden = false;
    this.#setUnread(0);
  }

  /**
   * @param {string} name
   * @param {string} text
   * @param {boolean} own
   */
  #add(name, text, own) {
    const now = new Date();
    const time = make("time", "", now.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" }));
    time.dateTime = now.toISOString();
    this.#append(make("div", own ? "message own" : "message", make("p", "message-who", name, " ", time), make("p", "message-text", text)));
  }

  /** @param {HTMLElement} entry */
  #append(entry) {
    const log = byId("chat-log");
    byId("chat-empty").hidden = true;
    log.append(entry);
    while (log.children.length > KEPT_MESSAGES) log.firstElementChild?.remove();
    log.scrollTop = log.scrollHeight;
  }

  /** @param {number} count */
  #setUnread(count) {
    this.#unread = count;
    const mark = byId("unread");
    mark.hidden = count === 0;
    mark.textContent = count > 9 ? "9+" : String(count);
  }
}
