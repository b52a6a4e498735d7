// @ts-check
/**
 * Who this tab is in a room: a secret that survives reloads, so that the peer id does too, and that two tabs never
 * share, although duplicating a tab copies its sessionStorage.
 */

import { randomText } from "./protocol.js";

/** A reload can overlap with the page it replaces, which on a busy machine holds the lock for seconds. */
const RELOAD_PATIENCE_MS = 5_000;
/** Anything else with a kept secret is most likely a duplicated tab, whose original will not let go. */
const LOCK_PATIENCE_MS = 400;

/**
 * The secret of this tab for a room; held until the page goes away.
 * @param {string} room
 * @returns {Promise<string>}
 */
export async function holdSecret(room) {
  const key = `signaling.secret.${room}`;
  const kept = read(key);
  if (kept !== null && (await hold(kept))) return kept;
  const fresh = randomText(32);
  write(key, fresh);
  await hold(fresh);
  return fresh;
}

/**
 * Takes the lock of this secret for the life of the page.
 * @param {string} secret
 * @returns {Promise<boolean>}
 */
function hold(secret) {
  // Without a secure context there are no locks; then only a reload may keep the secret.
  if (navigator.locks === undefined) return Promise.resolve(isReload());
  return new Promise((resolve) => {
    const held = () => {
      resolve(true);
      return new Promise(() => {});
    };
    navigator.locks
      .request(`signaling.${secret}`, { signal: AbortSignal.timeout(isReload() ? RELOAD_PATIENCE_MS : LOCK_PATIENCE_MS) }, held)
      .catch(() => resolve(false));
  });
}

function isReload() {
  const [entry] = performance.getEntriesByType("navigation");
  return entry !== undefined && /** @type {PerformanceNavigationTiming} */ (entry).type === "reload";
}

/** @param {string} key */
function read(key) {
  try {
    const value = sessionStorage.getItem(key);
    return value !== null && /^[A-Za-z0-9_-]{43}$/.test(value) ? value : null;
  } catch {
    return null; // storage is switched off: a fresh identity per load
  }
}

/**
 * @param {string} key
 * @param {string} value
 */
function write(key, value) {
  try {
    sessionStorage.setItem(key, value);
  } catch {
    // as above
  }
}
