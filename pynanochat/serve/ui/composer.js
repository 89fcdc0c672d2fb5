// The message box: Enter sends, Shift+Enter breaks the line, a slash opens the commands, arrow up edits the last message.

import { find, run } from "./commands.js";
import { h, number, swapIcon } from "./dom.js";
import { announce, toast } from "./notify.js";

const TALLEST = 240; // pixels

export class Composer {
  // `app` is what commands act on, with send(text), stop(), editLast() and settings.
  constructor(form, app) {
    this.app = app;
    this.area = form.querySelector("textarea");
    this.button = form.querySelector(".send");
    this.list = form.querySelector("[role=listbox]");
    this.count = form.querySelector(".count");
    this.busy = false;
    this._selected = 0;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) app.stop();
      else this._send();
    });
    this.area.addEventListener("input", () => this._changed());
    this.area.addEventListener("keydown", (event) => this._key(event));
    this.area.addEventListener("blur", () => setTimeout(() => this._suggest([]), 120));
    this._changed();
  }

  setBusy(busy) {
    if (busy === this.busy) return;
    this.busy = busy;
    swapIcon(this.button, busy ? "stop" : "send");
    this.button.setAttribute("aria-label", busy ? "Stop answering" : "Send message");
    this.button.title = busy ? "Stop (Esc)" : "Send (Enter)";
    this.button.classList.toggle("stopping", busy);
    this._changed();
  }

  set text(value) {
    this.area.value = value;
    this._changed();
  }

  // Close the suggestions; false where none were open.
  escape() {
    const open = !this.list.hidden;
    this._suggest([]);
    return open;
  }

  _send() {
    const text = this.area.value.trim();
    if (!text || this.busy) return;
    if (/^\/[a-z]+(\s|$)/i.test(text)) return this._command(text);
    if (text.length > this._most())
      return toast(`This message has ${number(text.length)} characters; the server takes ${number(this._most())}.`, {
        bad: true,
      });
    if (this.app.send(text)) this.text = "";
    return undefined;
  }

  _command(text) {
    this._suggest([]);
    try {
      const said = run(text, this.app);
      this.text = "";
      if (said) toast(said);
    } catch (error) {
      toast(error.message, { bad: true });
    }
  }

  _most() {
    return this.app.settings.limits.message_characters ?? Infinity;
  }

  _changed() {
    const { area } = this;
    area.style.height = "auto";
    area.style.height = `${Math.min(TALLEST, area.scrollHeight)}px`;
    this.button.disabled = !this.busy && !area.value.trim();
    const [length, most] = [area.value.length, this._most()];
    this.count.textContent = length > most * 0.8 ? `${number(length)} of ${number(most)} characters` : "";
    this.count.classList.toggle("over", length > most);
    this._suggest(find(area.value));
  }

  _suggest(found) {
    const { list, area } = this;
    list.hidden = !found.length;
    if (found.length && found.length !== this._found?.length) announce(`${found.length} commands. Arrow keys choose.`);
    this._found = found;
    this._selected = 0;
    list.replaceChildren(...found.map((command, i) => this._option(command, i)));
    this._mark();
  }

  _option(command, i) {
    const pointerdown = (event) => {
      event.preventDefault();
      this._take(command);
    };
    const name = h(
      "span",
      { class: "command-name" },
      `/${command.name}`,
      command.argument ? h("i", {}, ` ${command.argument}`) : "",
    );
    return h(
      "li",
      { role: "option", id: `command-${i}`, "aria-selected": "false", on: { pointerdown } },
      name,
      h("span", { class: "command-what" }, command.what),
    );
  }

  _mark() {
    [...this.list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === this._selected)));
    const option = this.list.children[this._selected];
    if (option) {
      this.area.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    } else this.area.removeAttribute("aria-activedescendant");
  }

  // A command without an argument is carried out; one with waits for it.
  _take(command) {
    if (!command.argument) return this._command(`/${command.name}`);
    this.text = `/${command.name} `;
    return this.area.focus();
  }

  _key(event) {
    if (event.isComposing) return;
    if (!this.list.hidden && this._chooseByKey(event)) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this._send();
    } else if (event.key === "ArrowUp" && !this.area.value) {
      event.preventDefault();
      this.app.editLast();
    }
  }

  _chooseByKey(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) {
      this._selected = (this._selected + by + this._found.length) % this._found.length;
      this._mark();
    } else if (event.key === "Tab" && !event.shiftKey)
      this.text = `/${this._found[this._selected].name}${this._found[this._selected].argument ? " " : ""}`;
    else if (event.key === "Enter" && !event.shiftKey) this._take(this._found[this._selected]);
    else return false;
    event.preventDefault();
    return true;
  }
}
