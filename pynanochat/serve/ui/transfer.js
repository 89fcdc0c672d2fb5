// Conversations as a file and back: exportText(list) and importText(text). A file comes from anywhere, so each field is
// checked and copied by itself into a new conversation with new ids; whatever does not fit is left out or refused.

import { ROOT, newConversation, newId, titleOf } from "./tree.js";

const FORMAT = "pynanochat-conversations";
export const MOST_BYTES = 50_000_000;
const MOST_CONVERSATIONS = 5_000;
const MOST_NODES = 10_000;
const MOST_TEXT = 1_000_000;
const MOST_TOKENS = 20_000;
const KINDS = ["text", "tool_call", "tool_output", "notice"];
const STATES = ["done", "stopped", "failed"];

export class ImportError extends Error {}

export function exportText(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, exported: new Date().toISOString(), conversations }, null, 1);
}

// New conversations from a file's text. Throws ImportError, whose message is for the reader.
export function importText(text) {
  if (text.length > MOST_BYTES) throw new ImportError("The file is larger than 50 MB.");
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new ImportError("The file is not JSON.");
  }
  if (!isObject(file) || file.format !== FORMAT)
    throw new ImportError("The file does not hold pynanochat conversations.");
  if (file.version !== 1) throw new ImportError("The file was written by another version of pynanochat.");
  if (!Array.isArray(file.conversations)) throw new ImportError("The file holds no list of conversations.");
  if (file.conversations.length > MOST_CONVERSATIONS)
    throw new ImportError("The file holds more than 5,000 conversations.");
  const read = file.conversations
    .map(readConversation)
    .filter((conversation) => conversation && Object.keys(conversation.nodes).length);
  if (!read.length) throw new ImportError("The file holds no conversation that can be read.");
  return read;
}

function readConversation(raw) {
  if (!isObject(raw) || !isObject(raw.nodes)) return null;
  const conversation = newConversation();
  conversation.created = time(raw.created);
  conversation.updated = time(raw.updated);
  const ids = new Map([[ROOT, ROOT]]);
  for (const [id, node] of Object.entries(raw.nodes).slice(0, MOST_NODES)) {
    const copy =
      isObject(node) && ids.has(node.parent) && !ids.has(id)
        ? readNode(node, conversation, ids.get(node.parent))
        : null;
    if (!copy) continue;
    ids.set(id, copy.id);
    conversation.nodes[copy.id] = copy;
  }
  for (const [parent, child] of Object.entries(isObject(raw.picks) ? raw.picks : {})) {
    const [from, to] = [ids.get(parent), ids.get(child)];
    if (from && to && conversation.nodes[to]?.parent === from) conversation.picks[from] = to;
  }
  const first = Object.values(conversation.nodes).find((node) => node.role === "user");
  conversation.title = titleOf(string(raw.title, 200)) || titleOf(first?.text ?? "");
  conversation.named = raw.named === true;
  return conversation;
}

// Messages alternate, so an answer hangs below a message and a message below an answer or the beginning.
function readNode(raw, conversation, parent) {
  const above = conversation.nodes[parent]?.role ?? "assistant";
  const node = { id: `n${newId()}`, parent, role: raw.role, time: time(raw.time) };
  if (raw.role === "user" && above === "assistant") return { ...node, text: string(raw.text, MOST_TEXT) };
  if (raw.role !== "assistant" || above !== "user" || !Array.isArray(raw.events)) return null;
  return {
    ...node,
    events: raw.events
      .filter((event) => isObject(event) && KINDS.includes(event.kind) && typeof event.text === "string")
      .map(readEvent),
    model: string(raw.model, 200),
    group: string(raw.group, 60) || null,
    state: STATES.includes(raw.state) ? raw.state : "stopped",
    finish: ["stop", "length"].includes(raw.finish) ? raw.finish : "",
    error: isObject(raw.error)
      ? { kind: string(raw.error.kind, 20), message: string(raw.error.message, 1000), retryAfter: 0 }
      : null,
    usage: readUsage(raw.usage),
    tokens: Array.isArray(raw.tokens) ? raw.tokens.slice(0, MOST_TOKENS).map(readToken).filter(Boolean) : [],
  };
}

function readEvent({ kind, text, forced }) {
  return kind === "tool_output"
    ? { kind, text: text.slice(0, MOST_TEXT), forced: forced === true }
    : { kind, text: text.slice(0, MOST_TEXT) };
}

const USAGE = [
  "prompt_tokens",
  "completion_tokens",
  "total_tokens",
  "context",
  "dropped_turns",
  "ttft_ms",
  "tokens_per_second",
];

function readUsage(raw) {
  if (!isObject(raw)) return null;
  return Object.fromEntries(
    USAGE.filter((name) => Number.isFinite(raw[name]) && raw[name] >= 0).map((name) => [name, raw[name]]),
  );
}

function readToken(raw) {
  if (!Array.isArray(raw) || typeof raw[0] !== "string") return null;
  const top = Array.isArray(raw[2])
    ? raw[2].slice(0, 20).filter((one) => Array.isArray(one) && typeof one[0] === "string" && Number.isFinite(one[1]))
    : [];
  return [
    raw[0].slice(0, 1000),
    Number.isFinite(raw[1]) ? Math.min(0, raw[1]) : null,
    top.map(([text, value]) => [text.slice(0, 1000), Math.min(0, value)]),
  ];
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const string = (value, most) => (typeof value === "string" ? value.slice(0, most) : "");
const time = (value) => (Number.isFinite(value) && value > 0 && value < 8.64e15 ? value : Date.now());
