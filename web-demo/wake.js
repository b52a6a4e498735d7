// @ts-check
/** Keeps the screen on during a call, where the browser can. */

/** @param {AbortSignal} signal ends it */
export function keepAwake(signal) {
  if (navigator.wakeLock === undefined) return;
  /** @type {WakeLockSentinel | undefined} */
  let lock;
  const request = async () => {
    // The browser drops the lock whenever the page is hidden.
    if (document.visibilityState !== "visible" || signal.aborted) return;
    lock = await navigator.wakeLock.request("screen").catch(() => undefined);
    if (signal.aborted) void lock?.release();
  };
  document.addEventListener("visibilitychange", () => void request(), { signal });
  signal.addEventListener("abort", () => void lock?.release());
  void request();
}
