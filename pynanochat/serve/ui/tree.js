// A conversation is a tree: asking again or editing adds a branch beside the old one, and nothing is ever lost.
//
// {id, title, named, created, updated, nodes: {id: node}, picks: {parent: id}}; a node is {id, parent, role, time} with
// text (user) or events, model, group, state, finish, error, usage, tokens (assistant). Answers of one group stand side
// by side and count as one branch. `picks` holds the child of each node that the reader is at.

export const ROOT = "root";
const TITLE = 60;

export const newId = () =>
  [...crypto.getRandomValues(new Uint8Array(9))].map((byte) => byte.toString(36).padStart(2, "0")).join("");

export function newConversation(now = Date.now()) {
  return { id: `c${newId()}`, title: "", named: false, created: now, updated: now, nodes: {}, picks: {} };
}

export function addNode(conversation, parent, fields) {
  const node = { id: `n${newId()}`, parent, time: Date.now(), ...fields };
  conversation.nodes[node.id] = node;
  conversation.picks[parent] = node.id;
  if (node.role === "user" && !conversation.named && parent === ROOT) conversation.title = titleOf(node.text);
  return node;
}

// Take a node without children away: an answer of which nothing came.
export function dropNode(conversation, id) {
  const { parent } = conversation.nodes[id];
  delete conversation.nodes[id];
  if (conversation.picks[parent] === id) delete conversation.picks[parent];
}

export function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > TITLE ? `${line.slice(0, TITLE - 1).trimEnd()}…` : line;
}

// The branches that leave `parent`, oldest first: lists of ids, of one id each but for answers side by side.
export function branches(conversation, parent) {
  const found = [];
  const groups = new Map();
  for (const node of Object.values(conversation.nodes)) {
    if (node.parent !== parent) continue;
    if (node.group && groups.has(node.group)) groups.get(node.group).push(node.id);
    else {
      found.push([node.id]);
      if (node.group) groups.set(node.group, found.at(-1));
    }
  }
  return found;
}

// What the reader sees: [{parent, ids, chosen, index, count}, ...] from the first message down.
export function path(conversation) {
  const turns = [];
  let parent = ROOT;
  for (;;) {
    const all = branches(conversation, parent);
    if (!all.length) return turns;
    const picked = all.findIndex((ids) => ids.includes(conversation.picks[parent]));
    const index = picked < 0 ? all.length - 1 : picked;
    const ids = all[index];
    const chosen = picked < 0 ? ids.at(-1) : conversation.picks[parent];
    turns.push({ parent, ids, chosen, index, count: all.length });
    parent = chosen;
  }
}

export const leaf = (conversation) => path(conversation).at(-1)?.chosen ?? ROOT;

export function pick(conversation, id) {
  conversation.picks[conversation.nodes[id].parent] = id;
}

// Go to the branch `by` places from the one shown under `parent`.
export function turnTo(conversation, parent, by) {
  const all = branches(conversation, parent);
  const at = path(conversation).find((turn) => turn.parent === parent)?.index ?? 0;
  const ids = all[Math.min(all.length - 1, Math.max(0, at + by))];
  const newest = ids.find((id) => branches(conversation, id).length) ?? ids.at(-1);
  conversation.picks[parent] = newest;
}

// The nodes from the first message to `id`.
export function ancestors(conversation, id) {
  const found = [];
  for (let at = conversation.nodes[id]; at; at = conversation.nodes[at.parent]) found.unshift(at);
  return found;
}

// The messages that the API is sent for an answer below `id`. A message of which no answer came is left out with it.
export function messages(conversation, id) {
  const sent = [];
  for (const node of ancestors(conversation, id)) {
    if (node.role === "user") sent.push({ role: "user", content: node.text });
    else if (parts(node.events).length) sent.push({ role: "assistant", content: parts(node.events) });
    else sent.pop();
  }
  return sent;
}

const PART = { text: "text", tool_call: "python", tool_output: "python_output" };

function parts(events) {
  const found = events
    .filter((event) => PART[event.kind])
    .map((event) => ({ type: PART[event.kind], text: event.text }));
  return found.length === 1 && found[0].type === "text" ? found[0].text : found;
}

// The answer as plain text, its tool calls left out.
export const plainText = (node) =>
  node.role === "user"
    ? node.text
    : node.events
        .filter((event) => event.kind === "text")
        .map((event) => event.text)
        .join("");

// Join what another tab has stored: its branches that this copy lacks are added, but for answers of which nothing came.
export function join(conversation, stored) {
  for (const [id, node] of Object.entries(stored.nodes)) {
    if (node.role === "user" || node.events.length) conversation.nodes[id] ??= node;
  }
  return conversation;
}
