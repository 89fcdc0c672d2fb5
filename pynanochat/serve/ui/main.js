// The chat page: joins the parts, and does what buttons, keys and commands ask for.

import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { askKey, showHelp } from "./dialogs.js";
import { h } from "./dom.js";
import { Library } from "./library.js";
import { ModelPicker } from "./models.js";
import { announce, toast } from "./notify.js";
import { Panel } from "./panel.js";
import { promptsFor } from "./prompts.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { stageTitle } from "./stages.js";
import { Store } from "./store.js";
import { Talk } from "./talk.js";
import { themeButton } from "./theme.js";
import { Thread } from "./thread.js";
import { newConversation, pick, plainText, turnTo } from "./tree.js";

const $ = (selector) => document.querySelector(selector);

class App {
  constructor(store) {
    this.settings = new Settings();
    this.library = new Library(store, () => this._showList());
    this.talk = new Talk(this.settings, (conversation) => this.library.keep(conversation));
    this.current = newConversation();
    this.thread = new Thread($("#scroller"), $("#turns"), this._turnActions());
    this.sidebar = new Sidebar($("#sidebar"), this);
    this.composer = new Composer($("#composer"), this);
    this.panel = new Panel($("#panel"), this.settings);
    this.picker = new ModelPicker($("#models"), this.talk, this.settings);
    this.connection = new Connection(this);
    this.talk.addEventListener("change", (event) => this._talked(event.detail));
    $("#theme").append(themeButton());
    this._wire();
  }

  async start() {
    await this.library.refresh();
    if (!this.library.lasting)
      toast("This browser keeps no data for this page: conversations last until it is closed.");
    await this.open(decodeURIComponent(location.hash.slice(1)), true);
    this.composer.area.focus();
    await this.connection.connect();
  }

  // --- the conversation

  send(text) {
    if (!this.talk.model) {
      toast("The server is not ready yet.", { bad: true });
      return false;
    }
    this.thread.toEnd();
    this.talk.send(this.current, text);
    this._place();
    announce("Answering.");
    return true;
  }

  stop() {
    this.talk.stop(this.current);
  }

  editLast() {
    this.thread.editLast();
  }

  newChat() {
    this.current = newConversation();
    this._place();
    this._show();
    this.closeDrawers();
    this.composer.area.focus();
  }

  async open(id, quietly = false) {
    const found = id ? await this.library.load(id) : null;
    if (!found && !quietly) toast("This conversation is not here any more.", { bad: true });
    if (found) this.current = found;
    this._place();
    this._show();
    this.closeDrawers();
  }

  _turnActions() {
    const busy = () => this.talk.running(this.current) && (toast("An answer is still being written."), true);
    return {
      again: (id) => busy() || (this.thread.toEnd(), this.talk.again(this.current, id)),
      edit: (id, text) => busy() || (this.thread.toEnd(), this.talk.edit(this.current, id, text)),
      choose: (id) => {
        pick(this.current, id);
        this._changed();
      },
      turn: (parent, by) => {
        turnTo(this.current, parent, by);
        this._changed();
        this.thread.focusArrows(parent, by);
      },
      key: async (id) => {
        if (!(await askKey())) return;
        await this.connection.connect();
        this.talk.again(this.current, id);
      },
    };
  }

  _changed() {
    this.library.keep(this.current);
    this._show();
  }

  _talked({ conversation, node }) {
    if (conversation !== this.current) return;
    if (!node) this._show();
    else this.thread.update(node);
    this.composer.setBusy(this.talk.running(this.current));
    if (node && node.state !== "running")
      announce(node.error ? node.error.message : `${stageTitle(node.model).title}: ${plainText(node)}`);
  }

  _show() {
    this.thread.show(this.current);
    const empty = !Object.keys(this.current.nodes).length;
    $("#empty").hidden = !empty;
    $("#scroller").classList.toggle("empty", empty);
    this.composer.setBusy(this.talk.running(this.current));
    document.title = this.current.title ? `${this.current.title} · pynanochat` : "pynanochat";
    this._showList();
  }

  _showList() {
    this.sidebar.show(this.library.heads, this.current.id);
  }

  _place() {
    const known = Object.keys(this.current.nodes).length > 0;
    history.replaceState(null, "", known ? `#${this.current.id}` : location.pathname + location.search);
  }

  // --- what the list asks for

  async rename(id, title) {
    await this.library.rename(id, title);
    if (id === this.current.id) this._show();
  }

  async remove(id) {
    const removed = await this.library.load(id);
    if (removed) this.talk.stop(removed);
    await this.library.remove(id);
    if (id === this.current.id) this.newChat();
    const undo = async () => {
      await this.library.restore(removed);
      await this.open(id);
    };
    toast(`“${removed?.title || "Conversation"}” is deleted.`, { action: "Undo", run: removed ? undo : null });
  }

  search(query) {
    return this.library.search(query);
  }

  exportOne(id = this.current.id) {
    this.library.exportOne(id);
  }

  exportAll() {
    this.library.exportAll();
  }

  async importFile(file) {
    const first = await this.library.importFile(file);
    if (first) await this.open(first.id);
  }

  // --- stages and commands

  served({ models, fallback, stats }) {
    this.talk.models = models;
    this.talk.fallbackModel = fallback;
    this.settings.serve(stats);
    this.picker.fill();
    this._greet(stats);
  }

  _greet(stats) {
    const choose = (text) => {
      this.send(text);
      this.composer.area.focus();
    };
    const card = ({ kind, text }) =>
      h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "prompt", on: { click: () => choose(text) } },
          h("span", { class: "prompt-kind" }, kind),
          h("span", {}, text),
        ),
      );
    $("#prompts").replaceChildren(...promptsFor(stats).map(card));
    $("#run-name").textContent = stats.run ?? "";
    $("#foot-note").textContent = stats.run ? `A small model of the run “${stats.run}”. It is often wrong.` : "";
  }

  stageTitles() {
    return this.talk.models.map((id) => stageTitle(id).title);
  }

  chooseStage(title) {
    const id = this.talk.models.find((one) => stageTitle(one).title.toUpperCase() === title);
    if (!id) return null;
    this.settings.choose("compare", false);
    this.settings.choose("model", id);
    return stageTitle(id).title;
  }

  toggleCompare() {
    const compare = !this.settings.choice("compare");
    this.settings.choose("compare", compare);
    return compare;
  }

  showTokens() {
    const last = this.thread.answers.filter((view) => view.node.tokens.length).at(-1);
    if (!last) throw new Error("No answer here has token probabilities yet; switch them on in the settings.");
    last.showTokens(true);
  }

  help() {
    showHelp();
  }

  // --- drawers and keys

  closeDrawers() {
    document.body.classList.remove("drawer-open");
    this._togglePanel(false);
    $("#menu").setAttribute("aria-expanded", "false");
  }

  _togglePanel(open) {
    const panel = $("#panel");
    if (!open && panel.contains(document.activeElement)) $("#settings").focus();
    panel.hidden = !open;
    $("#settings").setAttribute("aria-expanded", String(open));
    if (open) panel.querySelector("input").focus();
  }

  _toggleDrawer() {
    const narrow = window.matchMedia("(max-width: 860px)").matches;
    const open = narrow
      ? document.body.classList.toggle("drawer-open")
      : !document.body.classList.toggle("sidebar-closed");
    $("#menu").setAttribute("aria-expanded", String(open));
    if (open && narrow) $("#new").focus();
  }

  _wire() {
    $("#new").addEventListener("click", () => this.newChat());
    $("#menu").addEventListener("click", () => this._toggleDrawer());
    $("#scrim").addEventListener("click", () => this.closeDrawers());
    $("#settings").addEventListener("click", () => this._togglePanel($("#panel").hidden));
    $("#close-panel").addEventListener("click", () => this._togglePanel(false));
    $("#help").addEventListener("click", () => showHelp());
    document.addEventListener("keydown", (event) => this._key(event));
    window.addEventListener("hashchange", () => this.open(decodeURIComponent(location.hash.slice(1)), true));
    const leave = () => this.talk.running(this.current) && this.library.keep(this.current);
    document.addEventListener("visibilitychange", leave);
    window.addEventListener("pagehide", leave);
  }

  _key(event) {
    const key = event.key.toLowerCase();
    const typing = event.target.closest("input, textarea, select, dialog");
    if ((event.ctrlKey || event.metaKey) && event.shiftKey && (key === "n" || key === "o")) this.newChat();
    else if ((event.ctrlKey || event.metaKey) && !event.shiftKey && key === "k") this._focusSearch();
    else if (key === "/" && !typing) this.composer.area.focus();
    else if (key === "escape" && !event.target.closest("dialog")) this._escape();
    else return;
    event.preventDefault();
  }

  _focusSearch() {
    const hidden = window.matchMedia("(max-width: 860px)").matches
      ? !document.body.classList.contains("drawer-open")
      : document.body.classList.contains("sidebar-closed");
    if (hidden) this._toggleDrawer();
    this.sidebar.query.focus();
  }

  _escape() {
    if (this.composer.escape()) return;
    if (this.talk.running(this.current)) this.stop();
    else this.closeDrawers();
  }
}

const app = new App(await Store.open());
await app.start();
