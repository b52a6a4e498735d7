// @ts-check
/** Light or dark: as the system says, until the person says otherwise. */

import { byId } from "./element.js";
import { recall, remember } from "./memory.js";

const KEY = "call.theme";

export function startTheme() {
  const chosen = recall(KEY);
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  byId("theme").addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    remember(KEY, theme);
  });
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === undefined ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
}
