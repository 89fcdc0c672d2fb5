// Conversations in the browser's IndexedDB: `heads` for the list, `bodies` whole. Where the browser allows none, they
// are kept while the page is open. Every method may throw StoreError, whose message is for the reader.

import { join } from "./tree.js";

export class StoreError extends Error {}

const NAME = "pynanochat";

export class Store {
  static async open() {
    const store = new Store();
    store._memory = new Map();
    store._db = await openDatabase().catch(() => null);
    store.lasting = store._db !== null;
    store._channel = "BroadcastChannel" in globalThis ? new BroadcastChannel(NAME) : null;
    return store;
  }

  // Call `listener()` when another tab has changed something.
  onOtherTab(listener) {
    if (this._channel) this._channel.onmessage = listener;
  }

  // [{id, title, created, updated, count}, ...], the newest first.
  async list() {
    const heads = this._db
      ? await this._ask("heads", "readonly", (heads) => heads.getAll())
      : [...this._memory.values()].map(headOf);
    return heads.sort((a, b) => b.updated - a.updated);
  }

  async load(id) {
    if (!this._db) return this._memory.get(id) ?? null;
    return (await this._ask("bodies", "readonly", (bodies) => bodies.get(id))) ?? null;
  }

  // Save a conversation; branches that another tab added meanwhile are taken into it.
  async save(conversation) {
    if (!this._db) {
      this._memory.set(conversation.id, conversation);
      return;
    }
    await this._transact((heads, bodies, attempt) => {
      const before = bodies.get(conversation.id);
      const put = () => {
        if (before.result) join(conversation, before.result);
        bodies.put(conversation);
        heads.put(headOf(conversation));
      };
      before.onsuccess = () => attempt(put);
    });
    this._channel?.postMessage("saved");
  }

  async remove(id) {
    if (!this._db) {
      this._memory.delete(id);
      return;
    }
    await this._transact((heads, bodies) => {
      heads.delete(id);
      bodies.delete(id);
    });
    this._channel?.postMessage("removed");
  }

  // The ids of conversations in which every word of `query` stands somewhere.
  async search(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = new Set();
    const look = (conversation) => {
      const all = [conversation.title, ...Object.values(conversation.nodes).map(textOf)].join("\n").toLowerCase();
      if (words.every((word) => all.includes(word))) found.add(conversation.id);
    };
    if (!this._db) {
      this._memory.forEach(look);
      return found;
    }
    await new Promise((resolve, reject) => {
      const cursor = this._db.transaction("bodies").objectStore("bodies").openCursor();
      cursor.onerror = () => reject(explain(cursor.error));
      cursor.onsuccess = () => {
        if (!cursor.result) return resolve();
        look(cursor.result.value);
        cursor.result.continue();
      };
    });
    return found;
  }

  async all() {
    if (!this._db) return [...this._memory.values()];
    return this._ask("bodies", "readonly", (bodies) => bodies.getAll());
  }

  _ask(name, mode, ask) {
    return new Promise((resolve, reject) => {
      const request = ask(this._db.transaction(name, mode).objectStore(name));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(explain(request.error));
    });
  }

  // Do `work(heads, bodies, attempt)` whole or not at all; what it does later goes through attempt(step).
  _transact(work) {
    return new Promise((resolve, reject) => {
      const transaction = this._db.transaction(["heads", "bodies"], "readwrite");
      let thrown = null;
      const attempt = (step) => {
        try {
          step();
        } catch (error) {
          thrown = error;
          transaction.abort();
        }
      };
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(explain(thrown ?? transaction.error));
      attempt(() => work(transaction.objectStore("heads"), transaction.objectStore("bodies"), attempt));
    });
  }
}

const textOf = (node) => node.text ?? node.events.map((event) => event.text).join(" ");

function headOf({ id, title, named, created, updated, nodes }) {
  return { id, title, named, created, updated, count: Object.keys(nodes).length };
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("heads", { keyPath: "id" });
      request.result.createObjectStore("bodies", { keyPath: "id" });
    };
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
}

function explain(error) {
  if (error?.name === "QuotaExceededError") {
    return new StoreError(
      "This browser's storage is full, so the latest changes are not kept. Export conversations you care about, then delete some.",
    );
  }
  return new StoreError(
    `This browser could not keep the conversation (${error?.name ?? "unknown error"}). Export it to be safe.`,
  );
}

// Small settings, in localStorage: what cannot be read is the fallback, what cannot be written is forgotten.
export const remembered = {
  get(name, fallback) {
    try {
      const value = JSON.parse(localStorage.getItem(`${NAME}.${name}`));
      return value === null || typeof value !== typeof fallback ? fallback : value;
    } catch {
      return fallback;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`${NAME}.${name}`, JSON.stringify(value));
    } catch {
      // settings that are not kept are no loss
    }
  },
};
