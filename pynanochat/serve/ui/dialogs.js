// The two dialogs: the server's key, and help.

import { apiKey } from "./api.js";
import { commands } from "./commands.js";
import { h, iconButton } from "./dom.js";

const KEYS = [
  ["Enter", "send the message"],
  ["Shift + Enter", "break the line"],
  ["Esc", "stop the answer, or close what is open"],
  ["Ctrl + Shift + N", "new conversation (Ctrl + Shift + O where the browser keeps that key)"],
  ["Arrow up", "edit the last message, in an empty box"],
  ["Ctrl + K", "search conversations"],
  ["/", "go to the message box, and its commands"],
];

function dialog(title, ...content) {
  const id = `dialog-${title.replace(/\W+/g, "-").toLowerCase()}`;
  const close = iconButton("close", "Close", () => element.close());
  const element = h(
    "dialog",
    { "aria-labelledby": id },
    h("div", { class: "dialog-head" }, h("h2", { id }, title), close),
    ...content,
  );
  element.addEventListener("click", (event) => event.target === element && element.close());
  element.addEventListener("close", () => element.remove());
  document.body.append(element);
  element.showModal();
  return element;
}

export function showHelp() {
  const keys = KEYS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]);
  const list = commands().flatMap(({ name, argument, what }) => [
    h("dt", {}, h("code", {}, `/${name}`), argument ? h("i", {}, ` ${argument}`) : ""),
    h("dd", {}, what),
  ]);
  const branches =
    "Editing a message or answering again begins a branch. Nothing is lost: the arrows below a turn lead to its other branches.";
  dialog(
    "Help",
    h("h3", {}, "Keys"),
    h("dl", { class: "pairs" }, ...keys),
    h("h3", {}, "Commands"),
    h("dl", { class: "pairs" }, ...list),
    h("h3", {}, "Branches"),
    h("p", {}, branches),
  );
}

// Ask for the server's key; resolves true once one is given, false where the reader leaves.
export function askKey() {
  return new Promise((resolve) => {
    const field = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true });
    const keep = h("input", { type: "checkbox", id: "keep-key" });
    const form = h(
      "form",
      { class: "key-form", method: "dialog" },
      h("p", {}, "This server answers only those who have its key. Whoever runs it can tell you."),
      h("label", { for: "key" }, "Key"),
      field,
      h("label", { class: "check" }, keep, h("span", {}, "Keep it in this browser")),
      h("button", { type: "submit", class: "button strong" }, "Use this key"),
    );
    let given = false;
    form.addEventListener("submit", () => {
      given = true;
      apiKey.set(field.value.trim(), keep.checked);
    });
    dialog("A key, please", form).addEventListener("close", () => resolve(given));
    field.focus();
  });
}
