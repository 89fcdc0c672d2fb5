// One message of the reader, which can be edited into a branch of its own.

import { copyText, flash, h, iconButton } from "./dom.js";

export class QuestionView {
  // `actions` are {edit(id, text)}.
  constructor(node, actions) {
    this.node = node;
    this.actions = actions;
    this._bubble = h("div", { class: "bubble" }, node.text);
    const copy = iconButton("copy", "Copy message", () =>
      copyText(node.text).then(() => flash(copy, "check", "Copied")),
    );
    this._edit = iconButton("edit", "Edit message", () => this.edit());
    this.foot = h("footer", { class: "turn-foot" }, h("span", { class: "actions" }, copy, this._edit));
    this.element = h("article", { class: "question", label: "Your message" }, this._bubble, this.foot);
  }

  edit() {
    if (this._form) return;
    const area = h("textarea", {
      class: "edit-area",
      label: "Edit message",
      rows: Math.min(12, this.node.text.split("\n").length + 1),
    });
    area.value = this.node.text;
    const send = () => {
      if (!area.value.trim()) return;
      this._close();
      this.actions.edit(this.node.id, area.value.trim());
    };
    const keys = (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this._close();
        this._edit.focus();
      }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    };
    area.addEventListener("keydown", keys);
    const cancel = h("button", { type: "button", class: "button quiet", on: { click: () => this._close() } }, "Cancel");
    const save = h("button", { type: "button", class: "button strong", on: { click: send } }, "Send as a new branch");
    this._form = h("div", { class: "edit-form" }, area, h("div", { class: "edit-buttons" }, cancel, save));
    this._bubble.replaceWith(this._form);
    this.foot.hidden = true;
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  _close() {
    this._form?.replaceWith(this._bubble);
    this._form = null;
    this.foot.hidden = false;
  }
}
