// The conversations that the page has open or stored. Whatever cannot be kept is said once, and the page goes on.

import { h } from "./dom.js";
import { toast } from "./notify.js";
import { ImportError, MOST_BYTES, exportText, importText } from "./transfer.js";

export class Library {
  // `changed()` is called when the list has changed.
  constructor(store, changed) {
    this._store = store;
    this._changed = changed;
    this._open = new Map(); // by id: one object of a conversation, however often it is opened
    this._removed = new Set(); // an answer that was under way must not bring its conversation back
    this._told = "";
    this.heads = [];
    store.onOtherTab(() => this.refresh());
  }

  get lasting() {
    return this._store.lasting;
  }

  async refresh() {
    this.heads = (await this._try(() => this._store.list())) ?? this.heads;
    this._changed();
  }

  async keep(conversation) {
    if (this._removed.has(conversation.id)) return;
    this._open.set(conversation.id, conversation);
    await this._try(() => this._store.save(conversation));
    await this.refresh();
  }

  // The conversation, or null. An answer that was being written when the page was left counts as stopped.
  async load(id) {
    const open = this._open.get(id);
    if (open) return open;
    const stored = await this._try(() => this._store.load(id));
    if (!stored) return null;
    for (const node of Object.values(stored.nodes)) if (node.state === "running") node.state = "stopped";
    this._open.set(id, stored);
    return stored;
  }

  async rename(id, title) {
    const conversation = await this.load(id);
    if (!conversation) return;
    Object.assign(conversation, { title, named: true });
    await this.keep(conversation);
  }

  async remove(id) {
    this._open.delete(id);
    this._removed.add(id);
    await this._try(() => this._store.remove(id));
    await this.refresh();
  }

  restore(conversation) {
    this._removed.delete(conversation.id);
    return this.keep(conversation);
  }

  async search(query) {
    return (await this._try(() => this._store.search(query))) ?? new Set();
  }

  async exportOne(id) {
    const conversation = await this.load(id);
    if (conversation) download(`${fileName(conversation.title)}.json`, exportText([conversation]));
    else toast("There is nothing to export yet.");
  }

  async exportAll() {
    const all = await this._try(() => this._store.all());
    if (all?.length) download(`pynanochat-${new Date().toISOString().slice(0, 10)}.json`, exportText(all));
    else toast("There is nothing to export yet.");
  }

  // Add the conversations of a file; the first of them, or null where the file cannot be read.
  async importFile(file) {
    try {
      if (file.size > MOST_BYTES) throw new ImportError("The file is larger than 50 MB.");
      const read = importText(await file.text());
      for (const conversation of read) await this.keep(conversation);
      toast(read.length === 1 ? "One conversation is imported." : `${read.length} conversations are imported.`);
      return read[0];
    } catch (error) {
      toast(error instanceof ImportError ? error.message : "The file could not be read.", { bad: true });
      return null;
    }
  }

  async _try(work) {
    try {
      return await work();
    } catch (error) {
      if (this._told !== error.message) toast(error.message, { bad: true });
      this._told = error.message;
      return null;
    }
  }
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

const fileName = (title) =>
  title
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .slice(0, 50)
    .replace(/^-|-$/g, "") || "conversation";
