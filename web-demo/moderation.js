// @ts-check
/**
 * What those who look after a room see: who knocks, who may come in, who is kept out, and how to remove somebody. For everybody else it only tells
 * when the door was changed. What a person may is decided by the server; hiding what they may not is courtesy.
 *
 * @import { SignalingClient } from "./sdk/client.js"
 * @import { Ban, Door, Knock, KnockEnded, RoomChanged, Welcome } from "./sdk/protocol.js"
 */

import { byId, make } from "./element.js";
import { language, t } from "./i18n/text.js";
import { toast } from "./toast.js";

const MINUTE_MS = 60_000;
/** How often the minutes that bans have left are looked at. */
const BANS_EVERY_MS = 5_000;
/** Long enough for a quarrel to be over. */
const BAN_MS = 3_600_000;

export class Moderation {
  /** Who waits outside, with the card that shows it. @type {Map<string, { name: string | undefined, card: HTMLElement }>} */
  #knocking = new Map();
  #password = false;
  /** Who is kept out, as of the last time that we asked. @type {Ban[]} */
  #bans = [];
  #asked_at = 0;
  /** Counts them down while the sheet is open. @type {ReturnType<typeof setInterval> | undefined} */
  #countdown;
  /** Whom the open dialog would remove. */
  #removing = "";

  /**
   * @param {SignalingClient} client
   * @param {AbortSignal} signal ends the listening
   */
  constructor(client, signal) {
    this.client = client;
    /** @type {[string, (frame: any) => void][]} */
    const listeners = [
      ["welcome", (frame) => this.#welcomed(frame)],
      ["granted", () => this.#show()],
      ["room_changed", (frame) => this.#changed(frame)],
      ["knock", (frame) => this.#knocked(frame)],
      ["knock_ended", (frame) => this.#knockEnded(frame)],
      ["bans", (frame) => this.#listed(frame)],
    ];
    for (const [type, listener] of listeners) client.addEventListener(type, (event) => listener(/** @type {CustomEvent} */ (event).detail), { signal });
    byId("door-open").addEventListener("click", () => this.#ask(), { signal });
    byId("door").addEventListener("close", () => this.#stopCountdown(), { signal });
    byId("door-form").addEventListener("change", (event) => this.#doorChosen(event), { signal });
    byId("room-password-form").addEventListener("submit", (event) => this.#passwordChosen(event), { signal });
    byId("room-password-remove").addEventListener("click", () => client.setDoor(client.door, ""), { signal });
    byId("remove-confirm").addEventListener("click", () => this.#remove(), { signal });
    language.addEventListener("change", () => this.#show(), { signal });
    signal.addEventListener("abort", () => this.#close(), { once: true });
    this.#show();
  }

  /**
   * Asks before it removes somebody.
   * @param {string} peer
   * @param {string} name
   */
  askToRemove(peer, name) {
    this.#removing = peer;
    byId("remove-title").textContent = t("remove_title", { name });
    byId("remove-ban", HTMLInputElement).checked = false;
    byId("remove", HTMLDialogElement).showModal();
  }

  #remove() {
    const ban_ms = byId("remove-ban", HTMLInputElement).checked ? BAN_MS : undefined;
    this.client.kick(this.#removing, { ban_ms });
    byId("remove", HTMLDialogElement).close();
    // The button that asked goes with the tile.
    byId("mute").focus();
  }

  /** @param {Welcome} frame */
  #welcomed(frame) {
    this.#password = frame.room.password ?? false;
    // A session that goes on hears what it missed; another one hears of everybody who waits.
    if (frame.outcome !== "resumed") this.#knocking.clear();
    this.#show();
  }

  /** @param {RoomChanged} frame */
  #changed({ door, password = false }) {
    this.#password = password;
    if (door !== "knock") this.#knocking.clear();
    toast(t(`door_${door}_said`));
    this.#show();
  }

  /** @param {Knock} frame */
  #knocked({ peer, name }) {
    this.#knocking.set(peer, { name, card: this.#card(peer) });
    this.#show();
  }

  /** @param {KnockEnded} frame */
  #knockEnded({ peer }) {
    this.#knocking.delete(peer);
    this.#show();
  }

  /** @param {string} peer */
  #card(peer) {
    const [who, admit, deny] = [make("span", "knock-who"), make("button", "primary compact"), make("button", "secondary compact")];
    admit.type = deny.type = "button";
    admit.addEventListener("click", () => this.#answer(peer, true));
    deny.addEventListener("click", () => this.#answer(peer, false));
    return make("li", "knock", who, make("span", "knock-buttons", deny, admit));
  }

  /** @param {string} peer @param {boolean} admit */
  #answer(peer, admit) {
    this.client.answer(peer, admit);
    // The focus must not fall out of the page with the card that had it.
    const [next] = [...this.#knocking.keys()].filter((other) => other !== peer);
    const after = this.#knocking.get(next)?.card.querySelector("button") ?? byId("mute");
    this.#knocking.delete(peer);
    this.#show();
    after.focus();
  }

  /** The list is looked at when the sheet opens, and nobody tells when it changes. */
  #ask() {
    if (!this.client.may_lift) return;
    this.client.askForBans();
    this.#stopCountdown();
    this.#countdown = setInterval(() => this.#countDown(), BANS_EVERY_MS);
  }

  #stopCountdown() {
    clearInterval(this.#countdown);
    this.#countdown = undefined;
  }

  /** Those that are over go; of the others only the text changes, so that the focus stays. */
  #countDown() {
    const passed_ms = performance.now() - this.#asked_at;
    if (this.#bans.some(({ ends_in_ms }) => ends_in_ms <= passed_ms)) {
      this.#listed({ bans: this.#left() });
      return;
    }
    const texts = byId("bans").querySelectorAll(".knock-who");
    for (const [at, ban] of this.#left().entries()) texts[at].textContent = banText(ban);
  }

  /** The bans with the time that they have left now. */
  #left() {
    const passed_ms = performance.now() - this.#asked_at;
    return this.#bans.map((ban) => ({ ...ban, ends_in_ms: ban.ends_in_ms - passed_ms })).filter(({ ends_in_ms }) => ends_in_ms > 0);
  }

  /** @param {{ bans: Ban[] }} frame */
  #listed({ bans }) {
    this.#asked_at = performance.now();
    const focused = byId("bans").contains(document.activeElement);
    this.#bans = bans;
    this.#showBans();
    // The button that lifted one is gone.
    if (focused) (byId("bans").querySelector("button") ?? byId("door").querySelector("button"))?.focus();
  }

  #showBans() {
    const bans = this.#left();
    byId("kept-out").hidden = !this.client.may_lift || bans.length === 0;
    const items = bans.map((ban) => {
      const { peer } = ban;
      const [who, lift] = [make("span", "knock-who"), make("button", "secondary compact")];
      who.textContent = banText(ban);
      lift.type = "button";
      lift.textContent = t("lift");
      lift.setAttribute("aria-label", t("lift_label", { name: bannedName(ban) }));
      lift.addEventListener("click", () => this.client.lift(peer));
      return make("li", "knock", who, lift);
    });
    byId("bans").replaceChildren(...items);
  }

  #show() {
    const { granted, door, may_lift } = this.client;
    byId("call").toggleAttribute("data-may-kick", granted.may_kick);
    byId("door-open").hidden = !granted.may_lock && !may_lift;
    byId("door-form").hidden = byId("room-password-form").hidden = !granted.may_lock;
    this.#showBans();
    for (const choice of byId("door-form").querySelectorAll("input")) choice.checked = choice.value === door;
    byId("room-password-remove").hidden = !this.#password;
    byId("room-password-state").textContent = t(this.#password ? "room_password_on" : "room_password_off");
    this.#showSign();
    this.#showKnocks(granted.may_lock);
  }

  /** The sign beside the room's name, for everybody. */
  #showSign() {
    const { door } = this.client;
    const shut = door !== "open" || this.#password;
    const text = t(door !== "open" ? `door_${door}` : "room_password_on");
    const sign = byId("door-sign");
    sign.toggleAttribute("hidden", !shut);
    sign.setAttribute("title", text);
    byId("door-sign-text").textContent = shut ? text : "";
  }

  /** @param {boolean} may */
  #showKnocks(may) {
    const list = byId("knocks");
    list.hidden = !may || this.#knocking.size === 0;
    for (const [peer, { name, card }] of this.#knocking) {
      const [who, deny, admit] = [card.querySelector(".knock-who"), ...card.querySelectorAll("button")];
      const shown = name?.trim() || t("guest", { id: peer.slice(0, 4) });
      if (who !== null) who.textContent = t("knock_said", { name: shown });
      for (const [button, key] of /** @type {const} */ ([[admit, "admit"], [deny, "deny"]])) {
        button.textContent = t(key);
        button.setAttribute("aria-label", t(`${key}_label`, { name: shown }));
      }
    }
    const cards = [...this.#knocking.values()].map(({ card }) => card);
    for (const card of [...list.children]) if (!cards.some((kept) => kept === card)) card.remove();
    for (const card of cards) if (card.parentElement !== list) list.append(card);
  }

  /** @param {Event} event */
  #doorChosen({ target }) {
    if (target instanceof HTMLInputElement && target.name === "door") this.client.setDoor(/** @type {Door} */ (target.value));
  }

  /** @param {Event} event */
  #passwordChosen(event) {
    event.preventDefault();
    const field = byId("room-password", HTMLInputElement);
    if (field.value !== "") this.client.setDoor(this.client.door, field.value);
    field.value = "";
  }

  #close() {
    this.#stopCountdown();
    byId("knocks").replaceChildren();
    byId("knocks").hidden = true;
    byId("door-sign").toggleAttribute("hidden", true);
    byId("door-sign-text").textContent = "";
  }
}

/** @param {Ban} ban */
const bannedName = ({ peer, name }) => name?.trim() || t("guest", { id: peer.slice(0, 4) });

/** @param {Ban} ban */
const banText = (ban) => t("ban_said", { name: bannedName(ban), minutes: String(Math.ceil(ban.ends_in_ms / MINUTE_MS)) });
