// Short messages: toast(text, {action, run}) is seen for some seconds, announce(text) is only read out.

import { h, iconButton } from "./dom.js";

const SECONDS = 7;

export function toast(text, { action = "", run = null, bad = false } = {}) {
  const box = document.getElementById("toasts");
  const element = h("div", { class: bad ? "toast bad" : "toast" }, h("span", {}, text));
  let timer = 0;
  const leave = () => {
    clearTimeout(timer);
    element.remove();
  };
  const wait = () => (timer = setTimeout(leave, SECONDS * 1000));
  if (run) {
    const click = () => {
      leave();
      run();
    };
    element.append(h("button", { type: "button", class: "toast-action", on: { click } }, action));
  }
  element.append(iconButton("close", "Dismiss", leave));
  element.addEventListener("pointerenter", () => clearTimeout(timer));
  element.addEventListener("pointerleave", wait);
  box.append(element);
  while (box.children.length > 3) box.firstChild.remove();
  wait();
}

export function announce(text) {
  document.getElementById("announcer").textContent = text;
}
