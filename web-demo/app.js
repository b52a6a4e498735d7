// @ts-check
/**
 * The page from its address to the call and back. The room is the fragment: `#name`, or `#name&token=...` where the server asks for a
 * token; the query may carry
 * `?name=`, `?lang=en|ko`, `?relay=udp|tcp|any` and `?media=test|none` (no devices; used where there are none).
 * `globalThis.call` is a window into the running call for curious people and for tests.
 */

import { Call } from "./call.js";
import { LocalMedia } from "./devices.js";
import { byId } from "./element.js";
import { askPassword, keepToken, takeToken } from "./entry.js";
import { language, preferredLanguage, setText, t } from "./i18n/text.js";
import { copyInvitation, invitation, randomRoom, roomOfAddress } from "./link.js";
import { remember } from "./memory.js";
import { prejoin, prepareMedia } from "./prejoin.js";
import { relayOption } from "./relay.js";
import { holdSecret } from "./sdk/identity.js";
import { CLOSE_NAMES, randomText } from "./sdk/protocol.js";
import { startTheme } from "./theme.js";

async function main() {
  const query = new URLSearchParams(location.search);
  startTheme();
  startLanguage(query.get("lang"));
  startLinks();
  startDialogs();
  const found = takeToken();
  const { room, shown } = roomOfAddress();
  const token = keepToken(room, found);
  byId("room-name").textContent = shown;
  const media = new LocalMedia();
  const wish = query.get("media");
  if (wish === "test" || wish === "none") media.choice = { audio: wish, video: wish };
  const identity = holdSecret(room);
  void prepareMedia(media);

  /** @type {string | undefined} */
  let password;
  for (let [name, asked] = [query.get("name"), false]; ; ) {
    if (!asked) name = await prejoin(media, { name });
    const call = new Call({ room, secret: await identity, instance: randomText(9), name: name ?? "", token, password, media, relay: relayOption(query.get("relay")) });
    Object.assign(globalThis, { call: { client: call.client, peers: call.mesh.peers, mesh: call.mesh } });
    const code = await call.run();
    if (code === WRONG_PASSWORD) {
      password = await askPassword(password !== undefined);
      asked = password !== undefined;
      continue;
    }
    asked = false;
    media.stop();
    await ended(code);
    void media.start();
  }
}

/**
 * Shows how the call ended until the person wants back.
 * @param {number} code
 * @returns {Promise<void>}
 */
function ended(code) {
  const kind = ENDS[code] ?? "refused";
  setText(byId("ended-title"), `${kind}_title`);
  const explain = () => (byId("ended-text").textContent = t(`${kind}_text`, { reason: CLOSE_NAMES[code] ?? code }));
  explain();
  language.addEventListener("change", explain);
  setText(byId("rejoin"), kind === "replaced" ? "use_here" : "rejoin");
  byId("ended").hidden = false;
  document.body.dataset.view = "ended";
  byId("ended-title").focus();
  return new Promise((resolve) => {
    byId("rejoin").addEventListener("click", () => {
      byId("ended").hidden = true;
      language.removeEventListener("change", explain);
      resolve();
    }, { once: true });
  });
}

/** The room has a password, which is asked for instead of saying that this is the end. */
const WRONG_PASSWORD = 4210;

/** Ends that have words of their own. @type {Record<number, "left" | "replaced" | "kicked" | "banned" | "locked" | "unauthorized" | "denied" | "elsewhere">} */
const ENDS = { 1000: "left", 4203: "replaced", 4204: "kicked", 4205: "banned", 4206: "locked", 4207: "unauthorized", 4208: "unauthorized", 4209: "denied", 4211: "elsewhere" };

/** @param {string | null} asked */
function startLanguage(asked) {
  language.use(preferredLanguage(asked));
  byId("language").addEventListener("click", () => {
    language.use(language.other);
    remember("call.language", language.code);
  });
}

function startLinks() {
  for (const id of ["copy-room", "copy-link"]) byId(id).addEventListener("click", () => void copyInvitation());
  const share = byId("share-link");
  share.hidden = navigator.share === undefined;
  share.addEventListener("click", () => void navigator.share({ url: invitation() }).catch(() => undefined));
  byId("alone-local").hidden = !/^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(location.hostname);
  byId("new-room").addEventListener("click", () => (location.hash = randomRoom()));
  byId("skip").addEventListener("click", () => byId("main").focus());
  // Another fragment is another room, and a room is joined from the start.
  window.addEventListener("hashchange", () => location.reload());
}

function startDialogs() {
  for (const name of ["settings", "help", "door", "remove"]) {
    const dialog = byId(name, HTMLDialogElement);
    // Whom to remove is asked at a tile.
    if (name !== "remove") byId(`${name}-open`).addEventListener("click", () => dialog.showModal());
    dialog.addEventListener("click", (event) => {
      const closes = event.target === dialog || (event.target instanceof Element && event.target.closest("[data-close]") !== null);
      if (closes) dialog.close();
    });
  }
}

void main();
