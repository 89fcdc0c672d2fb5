"""The page's parts without a page around them, run in Chromium: markdown, server-sent events, the tree, import."""

import random

import pytest

from tests.serve.browser import module

HTML = """
  const view = (text, live = false) => {
    const element = document.createElement("div");
    new m.MarkdownView(element).update(text, live);
    return element.innerHTML.replace(/ (rel|target)="[^"]*"/g, "");
  };
"""
# Markdown, and what it becomes: `innerHTML` read back, so that markup in the text shows as entities.
CASES = {
    "a *b* **c** ***d***": "<p>a <em>b</em> <strong>c</strong> <em><strong>d</strong></em></p>",
    "~~e~~ `f` ~g~": "<p><del>e</del> <code>f</code> ~g~</p>",
    "snake_case_word and _this_": "<p>snake_case_word and <em>this</em></p>",
    "2 * 3 * 4 and 5*6": "<p>2 * 3 * 4 and 5*6</p>",
    r"\*not\* \`code\` \\": r"<p>*not* `code` \</p>",
    "`` a ` b `` and ` `": "<p><code>a ` b</code> and <code> </code></p>",
    "unclosed `code and **bold": "<p>unclosed `code and **bold</p>",
    "one\ntwo": "<p>one<br>two</p>",
    "one\n\ntwo": "<p>one</p><p>two</p>",
    "# One\n## Two #\n####### no": '<h3 class="md-h1">One</h3><h4 class="md-h2">Two</h4><p>####### no</p>',
    "#### 1,230\n##### 7": '<h6 class="final-result">1,230</h6><h6 class="final-result">7</h6>',
    "---\n***": "<hr><hr>",
    "- a\n- b": '<ul class="tight"><li><p>a</p></li><li><p>b</p></li></ul>',
    "- a\n  - b": '<ul class="tight"><li><p>a</p><ul class="tight"><li><p>b</p></li></ul></li></ul>',
    "3. a\n4. b": '<ol start="3" class="tight"><li><p>a</p></li><li><p>b</p></li></ol>',
    "- a\n\n- b": "<ul><li><p>a</p></li><li><p>b</p></li></ul>",
    "1. a\n\n   b": "<ol><li><p>a</p><p>b</p></li></ol>",
    "text\n- a": '<p>text</p><ul class="tight"><li><p>a</p></li></ul>',
    "in 1999\n2. not a list": "<p>in 1999<br>2. not a list</p>",
    "> a\n> > b": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>",
    "> a\nlazy": "<blockquote><p>a<br>lazy</p></blockquote>",
    "[a](https://x.org/b_c)": '<p><a href="https://x.org/b_c">a</a></p>',
    "[a *b*](<https://x.org/> 'title') c": '<p><a href="https://x.org/">a <em>b</em></a> c</p>',
    "see https://x.org/a_(b). And": '<p>see <a href="https://x.org/a_(b)">https://x.org/a_(b)</a>. And</p>',
    "<https://x.org>": '<p><a href="https://x.org/">https://x.org</a></p>',
    "![alt](https://x.org/i.png)": '<p><a href="https://x.org/i.png">alt</a></p>',
    "[a](mailto:b@c.org)": '<p><a href="mailto:b@c.org">a</a></p>',
    "[a](javascript:x) [b](/local) [c]": "<p>[a](javascript:x) [b](/local) [c]</p>",
    "<b>x</b> &amp; &lt;": "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp; &amp;lt;</p>",
    "": "",
}


@pytest.mark.parametrize("text", CASES)
def test_markdown_becomes_these_elements(shared, text):
    assert module(shared, "render.js", HTML + "return view(argument);", text) == CASES[text]


def test_code_and_tables(shared):
    code = "~~~py x\na\n```\n  <b>\n~~~\nafter"
    read = """
      const element = document.createElement("div");
      new m.MarkdownView(element).update(argument, false);
      const all = [...element.querySelectorAll(".code-lang, pre, p, th, td")];
      return all.map((e) => [e.localName, e.className, e.textContent]);
    """
    assert module(shared, "render.js", read, code) == [
        ["span", "code-lang", "py"], ["pre", "", "a\n```\n  <b>"], ["p", "", "after"],
    ]  # fmt: skip
    table = "| a | b `|` |\n|:-:|--:|\n| 1 \\| 2 | **3** | 4 |\n| 5 |\n\nafter"
    assert module(shared, "render.js", read, table) == [
        ["th", "align-center", "a"], ["th", "align-right", "b |"],
        ["td", "align-center", "1 | 2"], ["td", "align-right", "3"],
        ["td", "align-center", "5"], ["td", "align-right", ""], ["p", "", "after"],
    ]  # fmt: skip


PIECES = [
    "# Title", "para *one* **two**", "- item", "  - nested", "1. first", "2. second", "> quote", "```js", "code()",
    "```", "| a | b |", "|---|---|", "| 1 | 2 |", "---", "", "", "text `x` [l](https://x.org)", "   indented",
    "#### 12",
    "- [x] done", "-", "*", "lazy", "\ufffc0\ufffc", "https://x.org/(a)", "**open", "~~~", "a|b", "é🚀",
]  # fmt: skip


def test_text_that_comes_in_pieces_ends_as_if_it_had_come_at_once(shared):
    draw = random.Random(1)
    documents = ["\n".join(draw.choices(PIECES, k=draw.randint(1, 14))) for _ in range(150)]
    different = """
      const tool = (i) => Object.assign(document.createElement("details"), { textContent: String(i) });
      const found = [];
      for (const [n, text] of argument.entries()) {
        const whole = document.createElement("div");
        new m.MarkdownView(whole, { tool }).update(text, false);
        const grown = document.createElement("div");
        const view = new m.MarkdownView(grown, { tool });
        for (let at = 0; at < text.length; at += 1 + (n % 5)) view.update(text.slice(0, at), true);
        view.update(text, false);
        if (whole.innerHTML !== grown.innerHTML) found.push([text, whole.innerHTML, grown.innerHTML]);
      }
      return found;
    """
    found = module(shared, "render.js", different, documents)
    assert not found, found[0]


def test_what_stands_is_not_made_anew_while_the_text_grows(shared):
    kept = """
      const element = document.createElement("div");
      const view = new m.MarkdownView(element);
      view.update("one **tw", true);
      const [p, strong] = [element.querySelector("p"), element.querySelector("strong")];
      view.update("one **two** three\\n\\n```py\\na", true);
      const pre = element.querySelector("pre");
      view.update("one **two** three\\n\\n```py\\na = 1\\nb", true);
      return [strong?.textContent, ...[p, strong, pre].map((e) => element.contains(e)), pre.textContent];
    """
    assert module(shared, "render.js", kept) == ["two", True, True, True, "a = 1\nb"]


# Counted, not timed: characters that the parser is given while a text of n pieces comes.
def test_a_growing_text_is_not_parsed_from_its_beginning_each_time(shared):
    cost = """
      const { MarkdownView } = m;
      const seen = [];
      for (const paragraphs of [50, 100]) {
        const view = new MarkdownView(document.createElement("div"));
        let text = "";
        let parsed = 0;
        for (let i = 0; i < paragraphs; i++) {
          text += `Paragraph ${i} with *some* words in it.\\n\\n`;
          view.update(text, true);
          parsed += text.length - view._begin;
        }
        seen.push(parsed);
      }
      return seen;
    """
    half, whole = module(shared, "render.js", cost)
    assert whole < 2.5 * half


HOSTILE = {
    "stars": "*a " * 20_000,
    "star runs": "**" * 20_000,
    "brackets": "[" * 20_000,
    "links": "[a](" * 10_000,
    "backticks": "".join("`" * (i % 50 + 1) + "a" for i in range(5_000)),
    "quotes": ">" * 5_000 + " a",
    "nested lists": "\n".join("  " * i + "- a" for i in range(300)),
    "table bars": ("|" * 300 + "\n") * 50,
    "a line of bars and lines": "|a|\n" * 3_000,
    "angle brackets": "<http://" * 5_000,
    "exclamations": "![" * 10_000,
    "backslashes": "\\" * 40_000,
    "underscores": "_a_" * 10_000,
    "parentheses": "[a](" + "(" * 2_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_parsed_without_end_or_error(shared, name):
    """A parser that were quadratic or exponential here would run into the browser's time limit."""
    parse = "return m.parseBlocks(argument, true).length > 0 && m.parseBlocks(argument, false).length > 0;"
    assert module(shared, "markdown.js", parse, HOSTILE[name])


@pytest.fixture(scope="module")
def shared(chromium, site_of_module):
    page = chromium.new_page()
    page.goto(site_of_module.address + "/")
    yield page
    page.close()


def test_events_come_whole_however_the_stream_is_cut(shared):
    stream = ': hello\r\ndata: {"a": 1}\r\n\r\nevent: x\ndata: two\ndata: lines\n\n'
    stream += "data:no space\r\rid: 3\n\ndata\n\ndata: cut"
    expected = ['{"a": 1}', "two\nlines", "no space", ""]
    read = """
      return [1, 2, 3, 7, 1000].map((size) => {
        const parser = new m.SseParser();
        const found = [];
        for (let at = 0; at < argument.length; at += size) found.push(...parser.feed(argument.slice(at, at + size)));
        return found;
      });
    """
    assert module(shared, "sse.js", read, stream) == [expected] * 5


def test_a_tree_keeps_every_branch(shared):
    grow = """
      const c = m.newConversation();
      const q = m.addNode(c, m.ROOT, {role: "user", text: "q"});
      const answer = (parent, text, group = null) =>
        m.addNode(c, parent, {role: "assistant", events: text ? [{kind: "text", text}] : [], group, state: "done"});
      const a = answer(q.id, "a");
      const q2 = m.addNode(c, a.id, {role: "user", text: "q2"});
      const lost = answer(q2.id, "");
      const q3 = m.addNode(c, lost.id, {role: "user", text: "q3"});
      const sent = m.messages(c, q3.id);
      const b1 = answer(q.id, "b1", "g");
      const b2 = answer(q.id, "b2", "g");
      const shape = () => m.path(c).map((turn) => [turn.ids.length, turn.index, turn.count]);
      const grouped = shape();
      m.turnTo(c, m.ROOT, 5);
      m.turnTo(c, q.id, -1);
      const nodes = Object.keys(c.nodes).length;
      return {sent, grouped, back: shape(), leaf: m.leaf(c) === q3.id, title: c.title, nodes};
    """
    assert module(shared, "tree.js", grow) == {
        "sent": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "q3"},
        ],
        "grouped": [[1, 0, 1], [2, 1, 2]],
        "back": [[1, 0, 1], [1, 0, 2], [1, 0, 1], [1, 0, 1], [1, 0, 1]],
        "leaf": True, "title": "q", "nodes": 7,
    }  # fmt: skip


BAD_FILES = {
    "not json": "{",
    "a list": "[]",
    "another format": '{"format": "chat", "version": 1, "conversations": []}',
    "another version": '{"format": "pynanochat-conversations", "version": 2, "conversations": []}',
    "no list": '{"format": "pynanochat-conversations", "version": 1, "conversations": {}}',
    "nothing in it": '{"format": "pynanochat-conversations", "version": 1, "conversations": [null, 1, {"nodes": []}]}',
    "a cycle": '{"format": "pynanochat-conversations", "version": 1, "conversations": [{"nodes": '
    '{"a": {"role": "user", "text": "x", "parent": "b"}, "b": {"role": "assistant", "events": [], "parent": "a"}}}]}',
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_export_is_refused(shared, name):
    read = "try { m.importText(argument); return ''; } catch (e) { return e.constructor.name; }"
    assert module(shared, "transfer.js", read, BAD_FILES[name]) == "ImportError"


def test_of_a_hostile_file_only_what_fits_is_taken(shared):
    text = """{"format": "pynanochat-conversations", "version": 1, "conversations": [{
      "id": "../x", "title": {"a": 1}, "created": "now", "updated": 1e300, "named": "yes", "__proto__": {"hacked": 1},
      "picks": {"root": "zz", "__proto__": "u", "u": "a"},
      "nodes": {
        "u": {"role": "user", "parent": "root", "text": "hello", "onclick": "x", "state": "running"},
        "__proto__": {"role": "user", "parent": "root", "text": "proto"},
        "a": {"role": "assistant", "parent": "u", "model": 7, "state": "running", "group": {}, "usage": {"context": "x",
              "total_tokens": 5, "evil": 1}, "events": [{"kind": "html", "text": "x"}, {"kind": "text", "text": 5},
              {"kind": "text", "text": "yes"}, null], "tokens": [["a", 5, [["b", "c"], ["d", -1]]], 7, [1, 2]],
              "error": {"kind": "key", "message": [], "retryAfter": 1e9}},
        "s": {"role": "system", "parent": "root", "text": "no"},
        "w": {"role": "assistant", "parent": "root", "events": []},
        "o": {"role": "user", "parent": "constructor", "text": "no"}
      }}]}"""
    read = """
      const [c] = m.importText(argument);
      const [user, ...rest] = Object.values(c.nodes);
      const answer = rest.find((node) => node.role === "assistant");
      const hacked = ({}).hacked ?? c.hacked ?? null;
      return {title: c.title, named: c.named, hacked, roles: rest.map((n) => n.role), user: Object.keys(user),
        id: c.id.startsWith("c") && c.id.length > 10, texts: Object.values(c.nodes).map((n) => n.text ?? null),
        picked: c.picks[user.id] === answer.id, answer: {...answer, id: 0, parent: 0, time: 0}};
    """
    got = module(shared, "transfer.js", read, text)
    assert got.pop("texts") in (["hello", "proto", None], ["hello", None]), (
        "a node named __proto__ is a node like others"
    )
    assert set(got.pop("roles")) <= {"user", "assistant"}
    assert got == {
        "title": "hello", "named": False, "hacked": None, "id": True, "picked": True,
        "user": ["id", "parent", "role", "time", "text"],
        "answer": {
            "id": 0, "parent": 0, "role": "assistant", "time": 0, "model": "", "group": None, "state": "stopped",
            "finish": "", "usage": {"total_tokens": 5}, "events": [{"kind": "text", "text": "yes"}],
            "tokens": [["a", 0, [["d", -1]]]], "error": {"kind": "key", "message": "", "retryAfter": 0},
        },
    }  # fmt: skip
