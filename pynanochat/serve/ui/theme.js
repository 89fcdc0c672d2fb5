// Light, dark or as the system has it. early.js applies what is stored before the page is drawn.

import { iconButton, swapIcon } from "./dom.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };
const ICON = { auto: "auto", light: "sun", dark: "moon" };
const NAME = { auto: "as the system", light: "light", dark: "dark" };

export const theme = () => document.documentElement.dataset.theme ?? "auto";

export function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem("pynanochat.theme", name);
  } catch {
    // then it lasts until the page is closed
  }
  document.dispatchEvent(new Event("theme"));
}

export function themeButton() {
  const button = iconButton(ICON[theme()], "", () => setTheme(NEXT[theme()]));
  const show = () => {
    swapIcon(button, ICON[theme()]);
    const label = `Colours: ${NAME[theme()]}. Switch to ${NAME[NEXT[theme()]]}`;
    button.setAttribute("aria-label", label);
    button.title = label;
  };
  document.addEventListener("theme", show);
  show();
  return button;
}
