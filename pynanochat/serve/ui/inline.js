// Inline markdown to a tree of plain objects: parseInline("a *b*") is [{t: "text", s: "a "}, {t: "em", c: [...]}].
// Types: text, br, code, em, strong, del, a (href is http, https or mailto), tool (i: which call). Raw HTML is text.
// In live text, which is still being written, marks at the end that are not closed yet count as closed.

export const TOOL = "\ufffc"; // stands for a tool call within the text; a digit string and the same mark follow

const MARKS = /[\\`*_~[\]!<\n]|https?:\/\/|\ufffc/g;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const MOST_LINK = 2000; // characters that a link's text or target may have
const MOST_DEPTH = 12;

export function safeHref(target) {
  const text = target.replace(/[\u0000-\u0020\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060\ufeff]/g, "");
  if (!/^(https?:\/\/|mailto:)/i.test(text)) return null;
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

export function parseInline(source, live = false, depth = 0) {
  const items = []; // nodes and marks of emphasis, in order
  let text = "";
  let at = 0;
  const noCode = new Set(); // lengths of backtick runs that close nowhere
  const push = (node) => {
    if (text) items.push({ t: "text", s: text });
    text = "";
    items.push(node);
  };
  while (at < source.length) {
    MARKS.lastIndex = at;
    const found = MARKS.exec(source);
    if (!found) break;
    text += source.slice(at, found.index);
    at = found.index;
    const read = READERS[source[at]](source, at, { live, depth, noCode });
    if (!read) {
      text += source[at];
      at += 1;
    } else {
      if (read.node) push(read.node);
      else text += read.text;
      at = read.end;
    }
    if (read?.node?.t === "br") text = "";
  }
  text += source.slice(at);
  if (text) items.push({ t: "text", s: text });
  return merge(emphasize(items, live));
}

const READERS = {
  "\\"(source, at) {
    const next = source[at + 1];
    if (next === "\n") return { node: { t: "br" }, end: at + 2 };
    return next && /[!-/:-@[-`{-~]/.test(next) ? { text: next, end: at + 2 } : null;
  },
  "\n": (source, at) => ({ node: { t: "br" }, end: at + 1 + source.slice(at + 1, at + 9).match(/^ */)[0].length }),
  "`"(source, at, { live, noCode }) {
    const run = runAt(source, at);
    const literal = { text: source.slice(at, at + run), end: at + run };
    if (noCode.has(run)) return literal;
    let close = at + run;
    while ((close = source.indexOf("`", close)) >= 0) {
      const length = runAt(source, close);
      if (length === run) return { node: { t: "code", s: codeText(source.slice(at + run, close)) }, end: close + run };
      close += length;
    }
    noCode.add(run);
    const rest = source.slice(at + run);
    if (live && rest && run < 3) return { node: { t: "code", s: codeText(rest) }, end: source.length };
    return literal;
  },
  "*": readMark,
  _: readMark,
  "~": readMark,
  "]": () => null,
  "["(source, at, { live, depth }) {
    if (depth >= MOST_DEPTH) return null;
    const close = closingBracket(source, at);
    if (close < 0 || source[close + 1] !== "(") return null;
    const target = linkTarget(source, close + 1);
    if (!target) {
      const cut = live && source.length - close < MOST_LINK && !/[)\n]/.test(source.slice(close));
      return cut ? { text: source.slice(at + 1, close), end: source.length } : null;
    }
    const children = parseInline(source.slice(at + 1, close).replaceAll("\n", " "), false, depth + 1);
    const href = safeHref(target.href);
    if (!href) return null;
    return { node: { t: "a", href, c: withoutLinks(children) }, end: target.end };
  },
  "!"(source, at, context) {
    // A picture would be fetched from elsewhere: it becomes a link to it.
    if (source[at + 1] !== "[") return null;
    const link = READERS["["](source, at + 1, context);
    if (!link?.node) return null;
    if (!link.node.c.length) link.node.c = [{ t: "text", s: link.node.href }];
    return link;
  },
  "<"(source, at) {
    const found = /^<((?:https?:\/\/|mailto:)[^\s<>]{1,1000})>/i.exec(source.slice(at, at + 1010));
    const href = found && safeHref(found[1]);
    return href ? { node: { t: "a", href, c: [{ t: "text", s: found[1] }] }, end: at + found[0].length } : null;
  },
  h(source, at) {
    if (at > 0 && /[\p{L}\p{N}]/u.test(source[at - 1])) return null;
    let address = /^https?:\/\/[^\s<>"'`\u0000-\u001f\ufffc]{1,1000}/.exec(source.slice(at, at + 1010))?.[0] ?? "";
    address = address.replace(/[.,:;!?*_~\]]+$/, "");
    while (address.endsWith(")") && count(address, ")") > count(address, "(")) address = address.slice(0, -1);
    const href = address.length > 8 && safeHref(address);
    return href ? { node: { t: "a", href, c: [{ t: "text", s: address }] }, end: at + address.length } : null;
  },
  [TOOL](source, at) {
    const found = /^\ufffc(\d{1,6})\ufffc/.exec(source.slice(at, at + 8));
    return found
      ? { node: { t: "tool", i: Number(found[1]) }, end: at + found[0].length }
      : { text: "\ufffd", end: at + 1 };
  },
};

function readMark(source, at) {
  const char = source[at];
  const length = runAt(source, at);
  const before = source[at - 1] ?? " ";
  const after = source[at + length] ?? " ";
  if (char === "~" && length !== 2) return { text: source.slice(at, at + length), end: at + length };
  const [spaceBefore, spaceAfter] = [/\s/.test(before), /\s/.test(after)];
  const [markBefore, markAfter] = [PUNCTUATION.test(before), PUNCTUATION.test(after)];
  const leftFlanking = !spaceAfter && (!markAfter || spaceBefore || markBefore);
  const rightFlanking = !spaceBefore && (!markBefore || spaceAfter || markAfter);
  const underscore = char === "_";
  const opens = leftFlanking && (!underscore || !rightFlanking || markBefore);
  const closes = rightFlanking && (!underscore || !leftFlanking || markAfter);
  return { node: { mark: char, length, opens, closes }, end: at + length };
}

// Pair the marks of emphasis: a closing mark takes the nearest opening one of its kind, so one pass is enough.
function emphasize(items, live) {
  const openers = { "*": [], _: [], "~": [] };
  for (let i = 0; i < items.length; i++) {
    const closer = items[i];
    if (!closer.mark) continue;
    const stack = openers[closer.mark];
    while (closer.closes && closer.length && stack.length) {
      const opener = items[stack.at(-1)];
      const used = Math.min(2, opener.length, closer.length);
      const from = stack.at(-1);
      const inside = items.slice(from + 1, i).map(unmark);
      const kind = closer.mark === "~" ? "del" : used === 2 ? "strong" : "em";
      opener.length -= used;
      closer.length -= used;
      items.splice(from + 1, i - from - 1, { t: kind, c: merge(inside) });
      i = from + 2;
      for (const name of Object.keys(openers)) while (openers[name].at(-1) > from) openers[name].pop();
      if (!opener.length) stack.pop();
    }
    if (closer.opens && closer.length) stack.push(i);
  }
  return live ? closeAtEnd(items, openers) : items.map(unmark);
}

function closeAtEnd(items, openers) {
  for (const from of Object.values(openers)
    .flat()
    .sort((a, b) => b - a)
    .slice(0, 3)) {
    const { mark, length } = items[from];
    const rest = items.slice(from + 1).map(unmark);
    if (!rest.length || mark === "~") continue;
    items.splice(from, items.length, { t: length >= 2 ? "strong" : "em", c: merge(rest) });
  }
  return items.map(unmark);
}

const unmark = (item) => (item.mark ? { t: "text", s: item.mark.repeat(item.length) } : item);

function merge(items) {
  const result = [];
  for (const item of items) {
    const last = result.at(-1);
    if (item.t === "text" && last?.t === "text") result[result.length - 1] = { t: "text", s: last.s + item.s };
    else if (item.t !== "text" || item.s) result.push(item);
  }
  return result;
}

function withoutLinks(nodes) {
  return merge(
    nodes.flatMap((node) =>
      node.t === "a" ? withoutLinks(node.c) : node.c ? [{ ...node, c: withoutLinks(node.c) }] : [node],
    ),
  );
}

function runAt(source, at) {
  let end = at;
  while (source[end] === source[at]) end += 1;
  return end - at;
}

const codeText = (text) => {
  const plain = text.replaceAll("\n", " ");
  return /^ .* $/.test(plain) && plain.trim() ? plain.slice(1, -1) : plain;
};

const count = (text, char) => text.split(char).length - 1;

function closingBracket(source, at) {
  if (!source.includes("]", at)) return -1;
  let open = 0;
  for (let i = at; i < Math.min(source.length, at + MOST_LINK); i++) {
    if (source[i] === "\\") i += 1;
    else if (source[i] === "[") open += 1;
    else if (source[i] === "]" && --open === 0) return i;
  }
  return -1;
}

// "(target "title")" from `at`; the title is left out.
function linkTarget(source, at) {
  const text = source.slice(at, at + MOST_LINK);
  const found =
    /^\(\s*<([^<>\n]*)>(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)/.exec(text) ??
    /^\(\s*((?:[^\s()<]|\((?:[^\s()]|\([^\s()]*\))*\))*)(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)/.exec(text);
  return found && { href: found[1].replace(/\\([!-/:-@[-`{-~])/g, "$1"), end: at + found[0].length };
}
