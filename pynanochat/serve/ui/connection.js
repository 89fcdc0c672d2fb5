// Meets the server: its models, limits and defaults; waits kindly while it starts, and asks for a key where it wants one.

import { getJson } from "./api.js";
import { askKey } from "./dialogs.js";
import { h } from "./dom.js";
import { STAGES, learnModels } from "./stages.js";

const LONGEST_WAIT_MS = 10_000;

export class Connection {
  // `app.served({models, fallback, stats})` is called once the server has answered.
  constructor(app) {
    this.app = app;
    this.banner = document.getElementById("banner");
    window.addEventListener("online", () => this.ready || this.connect());
  }

  // Resolves when the server has answered, or when the reader gives no key.
  async connect() {
    this.ready = false;
    for (let wait = 500; ; wait = Math.min(LONGEST_WAIT_MS, wait * 1.6)) {
      try {
        const [models, stats] = await Promise.all([getJson("v1/models"), getJson("stats")]);
        this._meet(models.data ?? [], stats);
        return;
      } catch (error) {
        if (error.kind === "key" && !(await askKey()))
          return this._say("This server wants a key.", "Enter key", () => this.connect());
        if (error.kind !== "key")
          this._say(error.kind === "starting" ? "The model is getting ready…" : `${error.message} Trying again…`);
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  // A run's stages, oldest first; the plain name of the run is the same model as its newest stage.
  _meet(models, stats) {
    const staged = models.filter((model) => model.id.includes(":"));
    const listed = staged.length ? staged : models;
    const order = (model) => STAGES.indexOf(model.pynanochat?.stage);
    listed.sort((a, b) => order(a) - order(b));
    learnModels(models);
    const ids = listed.map((model) => model.id);
    const newest = models.find((model) => model.pynanochat?.default)?.pynanochat.stage;
    const fallback = listed.find((model) => model.pynanochat?.stage === newest)?.id ?? ids.at(-1) ?? "";
    this.ready = true;
    this.banner.replaceChildren();
    this.app.served({ models: ids, fallback, stats });
  }

  _say(text, action = "", click = null) {
    const button = click ? [h("button", { type: "button", class: "button", on: { click } }, action)] : [];
    this.banner.replaceChildren(h("p", {}, text), ...button);
  }
}
