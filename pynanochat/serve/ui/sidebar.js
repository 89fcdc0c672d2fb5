// The list of conversations: open, search, rename, delete with undo, export and import.

import { h, iconButton } from "./dom.js";

const DAY = 86_400_000;

export class Sidebar {
  // `app` has open(id), rename(id, title), remove(id), exportOne(id), exportAll(), importFile(file), search(query).
  constructor(element, app) {
    this.app = app;
    this.list = element.querySelector(".conversations");
    this.query = element.querySelector("input[type=search]");
    this.empty = element.querySelector(".list-empty");
    this.file = element.querySelector("input[type=file]");
    this._heads = [];
    this._current = "";
    this._found = null;
    this.query.addEventListener("input", () => this._search());
    this.query.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.query.value) return;
      event.stopPropagation();
      this.query.value = "";
      this._search();
    });
    element.querySelector(".export-all").addEventListener("click", () => app.exportAll());
    element.querySelector(".import").addEventListener("click", () => this.file.click());
    this.file.addEventListener("change", () => {
      if (this.file.files[0]) app.importFile(this.file.files[0]);
      this.file.value = "";
    });
  }

  show(heads, current) {
    this._heads = heads;
    this._current = current;
    if (!this.list.querySelector("input")) this._draw();
  }

  async _search() {
    const query = this.query.value.trim();
    const turn = (this._turn = (this._turn ?? 0) + 1);
    const found = query ? await this.app.search(query) : null;
    if (turn !== this._turn) return;
    this._found = found;
    this._draw();
  }

  _draw() {
    const heads = this._found ? this._heads.filter((head) => this._found.has(head.id)) : this._heads;
    const groups = new Map();
    for (const head of heads) {
      const name = age(head.updated);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(this._row(head));
    }
    const focused = this.list.contains(document.activeElement)
      ? document.activeElement.closest("[data-id]")?.dataset.id
      : null;
    this.list.replaceChildren(
      ...[...groups].map(([name, rows]) => h("section", { label: name }, h("h2", {}, name), h("ul", {}, ...rows))),
    );
    if (focused) this.list.querySelector(`[data-id="${focused}"] .open`)?.focus();
    this.empty.hidden = heads.length > 0;
    this.empty.textContent = this._found
      ? "No conversation holds these words."
      : "Conversations are kept in this browser.";
  }

  _row(head) {
    const title = head.title || "New conversation";
    const open = h(
      "button",
      {
        type: "button",
        class: "open",
        title,
        "aria-current": head.id === this._current ? "page" : null,
        on: { click: () => this.app.open(head.id) },
      },
      title,
    );
    const row = h("li", { class: head.id === this._current ? "row current" : "row", data: { id: head.id } }, open);
    const tools = h(
      "span",
      { class: "row-tools" },
      iconButton("edit", `Rename ${title}`, () => this._rename(head, row, open)),
      iconButton("download", `Export ${title}`, () => this.app.exportOne(head.id)),
      iconButton("trash", `Delete ${title}`, () => this.app.remove(head.id)),
    );
    open.addEventListener("dblclick", () => this._rename(head, row, open));
    row.append(tools);
    return row;
  }

  _rename(head, row, open) {
    const field = h("input", { type: "text", class: "rename", label: "Title of the conversation", maxlength: 200 });
    field.value = head.title;
    let over = false;
    const end = (keep) => {
      if (over) return;
      over = true;
      const title = field.value.trim();
      field.remove();
      if (keep && title && title !== head.title) this.app.rename(head.id, title);
      else this._draw();
      this.list.querySelector(`[data-id="${head.id}"] .open`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") end(false);
      event.stopPropagation();
    });
    field.addEventListener("blur", () => end(true));
    open.replaceWith(field);
    row.querySelector(".row-tools").hidden = true;
    field.focus();
    field.select();
  }
}

function age(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY) return "Yesterday";
  return time >= today - 6 * DAY ? "This week" : "Earlier";
}
