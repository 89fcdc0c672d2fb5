// Asks the server and grows the conversation's tree: send, edit, ask again, stop. Answers go on in the background when
// another conversation is opened. "change" is dispatched with {conversation, node} (node null: the tree changed).

import { ApiError, chat } from "./api.js";
import { addNode, branches, dropNode, leaf, messages, newId, pick } from "./tree.js";

const SAVE_EVERY_MS = 2500; // of an answer under way

export class Talk extends EventTarget {
  // `keep(conversation)` saves it; `models` are the ids of the run's stages, oldest first.
  constructor(settings, keep) {
    super();
    this.settings = settings;
    this.keep = keep;
    this.models = [];
    this.fallbackModel = "";
    this._running = new Map(); // node id -> {controller, conversation}
  }

  get model() {
    const chosen = this.settings.choice("model");
    return this.models.includes(chosen) ? chosen : this.fallbackModel;
  }

  running(conversation) {
    return [...this._running.values()].some((one) => one.conversation === conversation);
  }

  send(conversation, text) {
    const message = addNode(conversation, leaf(conversation), { role: "user", text });
    return this._answer(conversation, message.id);
  }

  // The same place with another message: a branch beside the old one.
  edit(conversation, id, text) {
    const message = addNode(conversation, conversation.nodes[id].parent, { role: "user", text });
    return this._answer(conversation, message.id);
  }

  // Another answer to the same message. One of which nothing came makes room for it.
  again(conversation, id) {
    const { parent, group } = conversation.nodes[id];
    const beside = branches(conversation, parent)
      .find((ids) => ids.includes(id))
      .map((one) => conversation.nodes[one]);
    const models = beside.map((node) => node.model).filter((model) => this.models.includes(model));
    if (beside.every((node) => node.state === "failed" && !node.events.length))
      for (const node of beside) dropNode(conversation, node.id);
    const compare = Boolean(group) && models.length > 1;
    return this._answer(conversation, parent, compare ? models : [this.model], compare);
  }

  stop(conversation) {
    for (const one of this._running.values()) if (one.conversation === conversation) one.controller.abort();
  }

  _answer(conversation, parent, models = null, compare = this.settings.choice("compare") && this.models.length > 1) {
    const asked = models ?? (compare ? this.models : [this.model]);
    const group = compare ? newId() : null;
    const turn = branches(conversation, parent).length;
    const nodes = asked.map((model) =>
      addNode(conversation, parent, {
        role: "assistant",
        model,
        group,
        events: [],
        tokens: [],
        state: "running",
        finish: "",
        error: null,
        usage: null,
      }),
    );
    const chosen = nodes.find((node) => node.model === this.model) ?? nodes.at(-1);
    pick(conversation, chosen.id);
    conversation.updated = Date.now();
    const work = nodes.map((node) => this._run(conversation, node, turn));
    this._tell(conversation, null);
    this.keep(conversation);
    return Promise.all(work);
  }

  async _run(conversation, node, turn) {
    const controller = new AbortController();
    this._running.set(node.id, { controller, conversation });
    const body = { model: node.model, messages: messages(conversation, node.parent), ...this.settings.request(turn) };
    let saved = performance.now();
    const onChunk = (chunk) => {
      take(node, chunk);
      this._tell(conversation, node);
      if (performance.now() - saved > SAVE_EVERY_MS) {
        saved = performance.now();
        this.keep(conversation);
      }
    };
    try {
      await chat(body, { signal: controller.signal, onChunk });
      node.state = "done";
    } catch (error) {
      node.state = error.name === "AbortError" ? "stopped" : "failed";
      if (node.state === "failed") node.error = described(error);
    }
    this._running.delete(node.id);
    conversation.updated = Date.now();
    this._tell(conversation, node);
    this.keep(conversation);
  }

  _tell(conversation, node) {
    this.dispatchEvent(new CustomEvent("change", { detail: { conversation, node } }));
  }
}

function described(error) {
  if (error instanceof ApiError) return { kind: error.kind, message: error.message, retryAfter: error.retryAfter };
  return { kind: "broken", message: `Something went wrong in this page (${error.name}).`, retryAfter: 0 };
}

// Take one chunk of the stream into the node.
function take(node, chunk) {
  const choice = chunk.choices?.[0];
  if (choice?.delta?.content) addEvent(node.events, { kind: "text", text: String(choice.delta.content) });
  for (const event of choice?.pynanochat?.events ?? []) addEvent(node.events, event);
  for (const token of choice?.logprobs?.content ?? []) {
    const top = (token.top_logprobs ?? []).map((other) => [shownToken(other), other.logprob]);
    node.tokens.push([shownToken(token), token.logprob, top]);
  }
  if (choice?.finish_reason) node.finish = choice.finish_reason;
  if (chunk.usage) node.usage = { ...chunk.usage, ...chunk.pynanochat };
}

function addEvent(events, { kind, text, forced }) {
  const last = events.at(-1);
  if (kind === "text" && last?.kind === "text") last.text += text;
  else if (["text", "tool_call", "tool_output", "notice"].includes(kind))
    events.push({ kind, text: String(text), ...(kind === "tool_output" ? { forced: Boolean(forced) } : {}) });
}

// A token's text; the bytes of one that is no whole character as ⟨e2 82⟩.
function shownToken({ token, bytes }) {
  if (!String(token).includes("\ufffd") || !Array.isArray(bytes)) return String(token);
  return `⟨${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}⟩`;
}
