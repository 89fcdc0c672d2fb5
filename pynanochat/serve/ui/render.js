// Markdown as elements, kept up to date while the text grows: only what changed is touched, so nothing flickers, a
// selection survives, and a growing text costs what its last blocks cost.
//
//     const text = new MarkdownView(element, {tool: (i) => HTMLElement});
//     text.update("Hello **wor", true);  text.update("Hello **world**", false);

import { copyText, flash, h, iconButton } from "./dom.js";
import { parseBlocks } from "./markdown.js";

export class MarkdownView {
  // `tool(i)` gives the element of tool call i.
  constructor(element, { tool = null } = {}) {
    this.element = element;
    this.tool = tool;
    this._text = "";
    this._begin = 0; // where the blocks that may still change begin
    this._settled = [];
    this._open = [];
  }

  update(text, live) {
    if (!text.startsWith(this._text.slice(0, this._begin))) this._reset();
    const blocks = parseBlocks(text.slice(this._begin), live);
    this._text = text;
    this._open = patch(this.element, this._settled.length, this._open, blocks, this);
    // The last block may take the one before it into itself (a line that becomes a list), so two stay open.
    const settle = Math.max(0, blocks.length - 2);
    if (settle && live) {
      this._settled.push(...this._open.splice(0, settle));
      this._begin += blocks[settle].at;
    }
  }

  _reset() {
    this.element.replaceChildren();
    this._begin = 0;
    this._settled = [];
    this._open = [];
  }
}

// Make the children of `parent` from index `skip` on show `nodes`; `mounts` is what an earlier call returned.
function patch(parent, skip, mounts, nodes, view) {
  const result = nodes.map((node, i) => {
    const old = mounts[i];
    if (old && KINDS[node.t].same(old.node, node)) {
      KINDS[node.t].change(old, node, view);
      old.node = node;
      return old;
    }
    const mount = { node, ...KINDS[node.t].make(node, view) };
    if (old) old.element.replaceWith(mount.element);
    else parent.insertBefore(mount.element, parent.childNodes[skip + i] ?? null);
    return mount;
  });
  for (const old of mounts.slice(nodes.length)) old.element.remove();
  return result;
}

// How a type is made, whether an element can go on as another node, and how it becomes that.
const inside = (create, same = (a, b) => a.t === b.t) => ({
  make(node, view) {
    const { element, body = element } = create(node);
    return { element, body, kids: patch(body, 0, [], node.c, view) };
  },
  same,
  change(mount, node, view) {
    mount.kids = patch(mount.body, 0, mount.kids, node.c, view);
  },
});
const still = (make) => ({ make, same: (a, b) => JSON.stringify(a) === JSON.stringify(b), change() {} });
const simple = (tag) => inside(() => ({ element: h(tag) }));

const setText = (target, before, after) => {
  if (before === after) return;
  if (after.startsWith(before)) target.appendData(after.slice(before.length));
  else target.data = after;
};

const isResult = (node) =>
  node.n >= 4 && node.c.length === 1 && node.c[0].t === "text" && /^[-+$\d.,/ %]+$/.test(node.c[0].s);

const KINDS = {
  text: {
    make: (node) => ({ element: document.createTextNode(node.s) }),
    same: (a, b) => a.t === b.t,
    change: (mount, node) => setText(mount.element, mount.node.s, node.s),
  },
  br: still(() => ({ element: h("br") })),
  hr: still(() => ({ element: h("hr") })),
  code: {
    make: (node) => ("lang" in node ? codeBlock(node) : inlineCode(node)),
    same: (a, b) => a.t === b.t && "lang" in a === "lang" in b,
    change(mount, node) {
      setText(mount.text, shown(mount.node), shown(node));
      if (mount.label) mount.label.textContent = node.lang || "text";
    },
  },
  em: simple("em"),
  strong: simple("strong"),
  del: simple("del"),
  a: inside(
    (node) => ({ element: h("a", { href: node.href, rel: "noopener noreferrer nofollow", target: "_blank" }) }),
    (a, b) => a.t === b.t && a.href === b.href,
  ),
  p: simple("p"),
  h: inside(
    (node) => ({
      element: h(`h${Math.min(6, node.n + 2)}`, { class: isResult(node) ? "final-result" : `md-h${node.n}` }),
    }),
    (a, b) => a.t === b.t && a.n === b.n && isResult(a) === isResult(b),
  ),
  quote: simple("blockquote"),
  list: inside(
    (node) => ({
      element: h(node.ordered ? "ol" : "ul", {
        start: node.ordered && node.start !== 1 ? node.start : null,
        class: node.tight ? "tight" : null,
      }),
    }),
    (a, b) => a.t === b.t && a.ordered === b.ordered && a.start === b.start && a.tight === b.tight,
  ),
  item: inside(
    (node) => {
      if (node.done === undefined) return { element: h("li") };
      const body = h("div");
      return {
        element: h(
          "li",
          { class: "task" },
          h("span", { role: "img", label: node.done ? "done" : "to do" }, node.done ? "☑" : "☐"),
          body,
        ),
        body,
      };
    },
    (a, b) => a.t === b.t && a.done === b.done,
  ),
  table: {
    make: makeTable,
    same: (a, b) => a.t === b.t && JSON.stringify([a.align, a.head]) === JSON.stringify([b.align, b.head]),
    change: changeTable,
  },
  tool: {
    make: (node, view) => ({ element: view.tool?.(node.i) ?? document.createTextNode("") }),
    same: (a, b) => a.t === b.t && a.i === b.i,
    change() {},
  },
};

const shown = (node) => node.s.replace(/\ufffc\d*\ufffc?/g, "");

function inlineCode(node) {
  const text = document.createTextNode(shown(node));
  return { element: h("code", {}, text), text };
}

function codeBlock(node) {
  const text = document.createTextNode(shown(node));
  const label = h("span", { class: "code-lang" }, node.lang || "text");
  const copy = iconButton("copy", "Copy code", () => copyText(text.data).then(() => flash(copy, "check", "Copied")));
  const pre = h("pre", { tabindex: "0", label: "Code" }, h("code", {}, text));
  return {
    element: h("div", { class: "code-block" }, h("div", { class: "code-head" }, label, copy), pre),
    text,
    label,
  };
}

function makeTable(node, view) {
  const head = h("tr");
  const body = h("tbody");
  const element = h(
    "div",
    { class: "table-wrap", tabindex: "0", role: "region", label: "Table" },
    h("table", {}, h("thead", {}, head), body),
  );
  node.head.forEach((cell, k) => {
    const th = h("th", { scope: "col", class: node.align[k] ? `align-${node.align[k]}` : null });
    patch(th, 0, [], cell, view);
    head.append(th);
  });
  const mount = { element, body, rows: [] };
  changeTable(mount, node, view);
  return mount;
}

function changeTable(mount, node, view) {
  node.rows.forEach((row, i) => {
    mount.rows[i] ??= newRow(mount.body, node);
    row.forEach((cell, k) => {
      const place = mount.rows[i].cells[k];
      place.kids = patch(place.element, 0, place.kids, cell, view);
    });
  });
  for (const old of mount.rows.splice(node.rows.length)) old.element.remove();
}

function newRow(body, node) {
  const cells = node.align.map((align) => ({ element: h("td", { class: align ? `align-${align}` : null }), kids: [] }));
  const element = h("tr", {}, ...cells.map((cell) => cell.element));
  body.append(element);
  return { element, cells };
}
