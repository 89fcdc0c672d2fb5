// Markdown to a tree of plain objects: parseBlocks("# Hi") is [{t: "h", n: 1, c: [inline], at: 0}]; `at` is where in the
// text a top-level block begins. Types: p, h (n), code (lang, s), hr, quote, list (ordered, start, tight; items of
// blocks, done for a task), table (align, head, rows). Raw HTML is text. What the inline parts hold: inline.js.

import { parseInline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( {1,4})(?=\S)|[ \t]*$|( ))/;
const SEPARATOR = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MOST_DEPTH = 12;
const MOST_COLUMNS = 60;

export function parseBlocks(text, live = false, depth = 0) {
  const lines = text.split("\n");
  const starts = [];
  let offset = 0;
  for (const line of lines) {
    starts.push(offset);
    offset += line.length + 1;
  }
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (!lines[i].trim()) {
      i += 1;
      continue;
    }
    const read = (depth < MOST_DEPTH ? NESTED : [])
      .concat(LEAVES)
      .reduce((got, one) => got ?? one(lines, i, live, depth), null);
    blocks.push({ ...read.block, at: starts[i] });
    i = read.next;
  }
  return blocks;
}

function readFence(lines, from) {
  const open = FENCE.exec(lines[from]);
  if (!open || (open[1][0] === "`" && open[2].includes("`"))) return null;
  const indent = lines[from].match(/^ */)[0].length;
  const close = new RegExp(`^ {0,3}${open[1][0]}{${open[1].length},}[ \\t]*$`);
  let end = from + 1;
  while (end < lines.length && !close.test(lines[end])) end += 1;
  const body = lines.slice(from + 1, end);
  const inner = indent ? body.map((line) => line.replace(new RegExp(`^ {1,${indent}}`), "")) : body;
  const lang = open[2].trim().split(/\s/)[0].slice(0, 40);
  return { block: { t: "code", lang, s: inner.join("\n") }, next: end + 1 };
}

function readHeading(lines, i, live) {
  const found = HEADING.exec(lines[i]);
  if (!found) return null;
  return {
    block: { t: "h", n: found[1].length, c: parseInline(found[2] ?? "", live && i === lines.length - 1) },
    next: i + 1,
  };
}

const readRule = (lines, i) => (RULE.test(lines[i]) ? { block: { t: "hr" }, next: i + 1 } : null);

function readQuote(lines, from, live, depth) {
  if (!QUOTE.test(lines[from])) return null;
  const inner = [];
  let i = from;
  for (; i < lines.length && lines[i].trim(); i++) {
    if (QUOTE.test(lines[i])) inner.push(lines[i].replace(QUOTE, ""));
    else if (inner.at(-1).trim() && !beginsBlock(lines[i])) inner.push(lines[i]);
    else break;
  }
  return { block: { t: "quote", c: parseBlocks(inner.join("\n"), live && i === lines.length, depth + 1) }, next: i };
}

function readList(lines, from, live, depth) {
  const first = ITEM.exec(lines[from]);
  if (!first || RULE.test(lines[from])) return null;
  const kind = first[2].at(-1);
  const items = [];
  let i = from;
  let loose = false;
  while (i < lines.length) {
    const mark = ITEM.exec(lines[i]);
    if (!mark || mark[2].at(-1) !== kind || RULE.test(lines[i])) break;
    const width = mark[1].length + mark[2].length + (mark[3]?.length ?? 1);
    const inner = [lines[i].slice(width)];
    let blank = false;
    for (i += 1; i < lines.length; i++) {
      const line = lines[i];
      if (!line.trim()) {
        blank = true;
        inner.push("");
        continue;
      }
      const indent = line.match(/^ */)[0].length;
      if (indent >= width) inner.push(line.slice(width));
      else if (indent >= 2 && ITEM.test(line.slice(2)))
        inner.push(line.slice(2)); // two spaces nest, as most write it
      else if (!blank && !beginsBlock(line)) inner.push(line.trimStart());
      else break;
      loose ||= blank && inner.length > 1 && indent < width + 2;
      blank = false;
    }
    while (inner.length > 1 && !inner.at(-1)) inner.pop();
    loose ||= blank && i < lines.length && ITEM.exec(lines[i])?.[2].at(-1) === kind;
    items.push(listItem(inner, live && i >= lines.length, depth));
  }
  const ordered = /\d/.test(first[2]);
  return {
    block: { t: "list", ordered, start: ordered ? Number.parseInt(first[2], 10) : 1, tight: !loose, c: items },
    next: i,
  };
}

function listItem(lines, live, depth) {
  const task = /^\[([ xX])\] /.exec(lines[0]);
  if (task) lines[0] = lines[0].slice(4);
  const item = { t: "item", c: parseBlocks(lines.join("\n"), live, depth + 1) };
  return task ? { ...item, done: task[1] !== " " } : item;
}

function readTable(lines, from, live) {
  if (!lines[from].includes("|")) return null;
  const head = cells(lines[from]);
  const separator = lines[from + 1];
  // While it is written, a row of its own that opens with a bar is taken for a table's head.
  const forming =
    live && /^ {0,3}\|/.test(lines[from]) && from + 2 >= lines.length && /^[ |:-]*$/.test(separator ?? "");
  if (!forming && !(separator !== undefined && SEPARATOR.test(separator) && cells(separator).length === head.length))
    return null;
  if (head.length > MOST_COLUMNS) return null;
  const align = cells(separator ?? "").map((c) =>
    /^:-*:$/.test(c) ? "center" : /-:$/.test(c) ? "right" : /^:/.test(c) ? "left" : "",
  );
  const rows = [];
  let i = Math.min(from + 2, lines.length);
  for (; i < lines.length && lines[i].trim() && !beginsBlock(lines[i]); i++) rows.push(cells(lines[i]));
  const inline = (row) => head.map((_, k) => parseInline(row[k] ?? "", live));
  return {
    block: { t: "table", align: head.map((_, k) => align[k] ?? ""), head: inline(head), rows: rows.map(inline) },
    next: i,
  };
}

function cells(line) {
  const inner = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(^|[^\\])\|$/, "$1");
  const result = [""];
  let code = false;
  for (let i = 0; i < inner.length; i++) {
    if (inner[i] === "`") code = !code && inner.includes("`", i + 1);
    if (inner[i] === "\\" && inner[i + 1] === "|") result[result.length - 1] += inner[++i];
    else if (inner[i] === "|" && !code) result.push("");
    else result[result.length - 1] += inner[i];
  }
  return result.map((cell) => cell.trim());
}

function readParagraph(lines, from, live, depth) {
  let i = from + 1;
  while (i < lines.length && lines[i].trim() && !interrupts(lines, i, live)) i += 1;
  const text = lines
    .slice(from, i)
    .map((line) => line.trimStart())
    .join("\n")
    .trimEnd();
  return { block: { t: "p", c: parseInline(text, live && i === lines.length, depth) }, next: i };
}

const beginsBlock = (line) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

// A paragraph is interrupted by any block but an empty list item, and by a numbered list only if that begins at 1.
function interrupts(lines, i, live) {
  const item = ITEM.exec(lines[i]);
  if (item && !RULE.test(lines[i]))
    return item[3] !== undefined && (!/\d/.test(item[2]) || Number.parseInt(item[2], 10) === 1);
  return beginsBlock(lines[i]) || readTable(lines, i, live && /^ {0,3}\|/.test(lines[i])) !== null;
}

const LEAVES = [readFence, readHeading, readRule, readTable, readParagraph];
const NESTED = [readQuote, readList];
