"""The chat page in Chromium: talking, stopping, branches, keys, commands, settings, side by side."""

import re

import pytest

from tests.serve.browser import answers, ask, begin, left_alone, open_chat, until

PHONE = {"viewport": {"width": 375, "height": 740}, "is_mobile": True, "has_touch": True}


def asked(site):
    return [stage for stage, _ in site.engine.requests]


def test_a_question_is_answered_with_markdown_and_figures(page, site):
    site.answers["hi"] = "Hello **there**\n\n- one\n- two\n\n```python\nprint(1 < 2)\n```"
    ask(page, "hi")
    assert page.locator(".answer strong").inner_text() == "there"
    assert page.locator(".answer li").all_inner_texts() == ["one", "two"]
    assert page.locator(".code-block pre").inner_text() == "print(1 < 2)"
    assert page.locator(".code-lang").inner_text() == "python"
    facts = page.locator(".facts").inner_text()
    assert re.search(r"\d tokens/s.*to first token.*of 2,048 context", facts, re.S), facts


def test_the_text_grows_while_it_is_written_and_stops_where_it_is_told(page, site):
    begin(page, site)
    page.keyboard.press("Escape")
    page.wait_for_selector(".writing", state="detached")
    text = answers(page)[0]
    assert 20 < len(text) < 500
    assert "stopped" in page.locator(".facts").inner_text()
    assert page.evaluate("document.querySelector('.send').getAttribute('aria-label')") == "Send message"
    left_alone(page, site)
    site.go_on()
    page.wait_for_timeout(100)
    assert answers(page)[0] == text


def test_the_button_stops_too_and_the_conversation_goes_on_from_there(page, site):
    begin(page, site)
    page.click("[aria-label='Stop answering']")
    page.wait_for_selector(".writing", state="detached")
    site.go_on()
    ask(page, "again")
    assert answers(page)[1] == "You said: again"
    prompt = site.engine.tokenizer.decode_bytes(site.engine.requests[-1][1].prompt).decode()
    assert "word" in prompt, "the stopped answer is part of what the model is told"


def test_answering_again_and_editing_make_branches_that_stay(page, site):
    site.answers |= {"one": "first", "two": "second"}
    ask(page, "one")
    site.answers["one"] = "first, differently"
    page.click("[aria-label='Answer again']")
    until(page, "document.querySelector('.answer').innerText.includes('differently')")
    page.wait_for_selector(".writing", state="detached")
    assert page.locator(".answer .branches").inner_text() == "2/2"
    page.click("[aria-label='Previous branch']")
    assert answers(page) == ["first"]
    assert page.locator("[aria-label='Previous branch']").is_disabled()

    page.locator(".question").hover()
    page.click("[aria-label='Edit message']")
    page.fill(".edit-area", "two")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.answer')?.innerText.includes('second')")
    page.wait_for_selector(".writing", state="detached")
    assert page.locator(".question .bubble").inner_text() == "two"
    page.click(".question [aria-label='Previous branch']")
    assert page.locator(".question .bubble").inner_text() == "one"
    assert answers(page) == ["first"], "the branch is where it was left"
    page.focus(".answer [aria-label='Next branch']")
    page.keyboard.press("Enter")
    assert answers(page) == ["first, differently"]
    assert page.evaluate("document.activeElement.ariaLabel") == "Previous branch", "the keyboard stays where it was"


def test_arrow_up_edits_the_last_message_and_escape_leaves_it(page):
    ask(page, "a question")
    page.focus("#message")
    page.keyboard.press("ArrowUp")
    assert page.input_value(".edit-area") == "a question"
    page.keyboard.press("Escape")
    assert page.locator(".edit-area").count() == 0
    assert page.locator(".bubble").inner_text() == "a question"


def test_tool_calls_are_blocks_that_open(page, site):
    site.answers["sum"] = "It is {python_start}12*31{python_end}{output_start}372{output_end} in all."
    ask(page, "sum")
    summary = page.locator(".tool summary")
    assert summary.inner_text().split() == ["12*31", "→", "372"]
    assert answers(page)[0].startswith("It is") and answers(page)[0].endswith("in all.")
    assert not page.locator(".tool-inside").is_visible()
    summary.click()
    assert page.locator(".tool-inside code").all_inner_texts() == ["12*31", "372"]
    assert "not by the model" in page.locator(".tool-source").inner_text()
    ask(page, "and then")
    prompt = bytes(id for id in site.engine.requests[-1][1].prompt if id < 256).decode()
    assert "12*31" in prompt and "372" in prompt


def test_all_stages_answer_side_by_side_and_one_is_gone_on_from(page, site):
    site.answers["who"] = "I am {stage}"
    page.click(".compare-button")
    ask(page, "who")
    assert sorted(asked(site)) == sorted(["pretrain", "midtrain", "sft", "rl"])
    assert page.locator(".compare .chip").all_inner_texts() == ["BASE", "MID", "SFT", "RL"]
    assert answers(page) == ["I am pretrain", "I am midtrain", "I am sft", "I am rl"]
    assert "base model" in page.locator(".compare .answer").first.locator(".notice").inner_text()
    page.click("[aria-label='Continue from the answer of SFT']")
    assert page.locator(".answer.chosen .chip").inner_text() == "SFT"
    page.click(".compare-button")
    page.click(".stage.stage-midtrain")
    ask(page, "more")
    assert asked(site)[-1] == "midtrain"
    prompt = bytes(id for id in site.engine.requests[-1][1].prompt if id < 256).decode()
    assert "I am sft" in prompt and "I am rl" not in prompt
    page.reload()
    page.wait_for_selector(".compare .answer")
    assert page.locator(".compare .answer").count() == 4


def test_the_token_view_shows_probabilities_and_alternatives(page, site):
    site.answers["ab"] = "ok"
    ask(page, "ab")
    page.click("[aria-label='Token probabilities']")
    tokens = page.locator(".token")
    assert tokens.all_inner_texts() == ["o", "k"]
    assert "q4" in tokens.first.get_attribute("class"), "exp(-0.5) is between 60 and 90 %"
    tokens.first.hover()
    rows = page.locator(".token-card li")
    assert rows.count() == 5
    assert rows.first.inner_text().split() == ["o", "60.7", "%"]
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.innerText") == "k"
    assert page.locator(".token-title").inner_text().split()[0] == "k"
    page.click("[aria-label='Token probabilities']")
    assert answers(page) == ["ok"]


def test_slash_commands_are_suggested_and_carried_out(page, site):
    page.fill("#message", "/te")
    assert page.locator("#suggestions li").count() == 1
    assert page.get_attribute("#message", "aria-activedescendant") == "command-0"
    assert page.locator("#command-0").get_attribute("aria-selected") == "true"
    page.keyboard.press("Tab")
    assert page.input_value("#message") == "/temperature "
    page.keyboard.type("1.5")
    page.keyboard.press("Enter")
    page.fill("#message", "/topk 7")
    page.keyboard.press("Enter")
    page.fill("#message", "/temperature 9")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.toast.bad')?.innerText.includes('from 0 to 2')")
    page.fill("#message", "")
    ask(page, "hi")
    sampling = site.engine.requests[-1][1].sampling
    assert (sampling.temperature, sampling.top_k) == (1.5, 7)
    page.fill("#message", "/nothing")
    page.keyboard.press("Enter")
    until(page, "[...document.querySelectorAll('.toast.bad')].some((t) => t.innerText.includes('/nothing'))")
    page.fill("#message", "/help")
    page.keyboard.press("Enter")
    assert page.locator("dialog h2").inner_text() == "Help"
    page.keyboard.press("Escape")
    page.fill("#message", "/clear")
    page.keyboard.press("Enter")
    page.wait_for_selector("#empty", state="visible")
    assert page.locator(".row").count() == 1, "the old conversation stays in the list"


def test_shift_enter_breaks_the_line_and_enter_sends(page, site):
    page.focus("#message")
    page.keyboard.type("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer")
    assert page.locator(".bubble").inner_text() == "a\nb"


def test_settings_follow_the_server_and_its_limits(page, site):
    page.click("#settings")
    assert page.get_attribute("#top_k", "max") == "200"
    page.fill("#top_k", "500")
    page.keyboard.press("Enter")
    assert page.input_value("#top_k") == "200"
    page.fill("#seed", "5")
    page.locator("#seed").blur()
    page.uncheck("#switch-tools")
    ask(page, "hi")
    request = site.engine.requests[-1][1]
    assert (request.sampling.top_k, request.seed, request.tools) == (200, 5, False)
    page.click("text=Back to the server's settings")
    assert page.input_value("#top_k") == "50"
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()


def test_dark_and_light_follow_the_system_and_the_button(new_page, site):
    page = new_page(color_scheme="dark")
    open_chat(page, site)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.click("#theme button")
    light = page.evaluate(background)
    assert light != dark
    page.reload()
    assert page.evaluate(background) == light
    page.click("#theme button")
    assert page.evaluate(background) == dark


@pytest.mark.parametrize("path", ["/", "/watch"])
def test_a_phone_shows_all_without_scrolling_sideways(new_page, site, path):
    page = new_page(**PHONE)
    page.goto(site.address + path)
    if path == "/watch":
        assert widest(page) <= 375
        return
    page.wait_for_selector(".stage", state="attached")
    word = "x" * 60
    site.answers["wide"] = f"{word} `{word}`\n\n```\n{word}\n```\n\n|{'a|' * 30}\n|{'-|' * 30}\n|{word}|\n\n# {word}"
    site.answers["wide"] += "\n\n{python_start}" + word + "{python_end}{output_start}" + word + "{output_end}"
    assert widest(page) <= 375
    ask(page, "wide")
    page.tap(".tool summary")
    page.tap(".compare-button")
    ask(page, "side " + word)
    assert widest(page) <= 375
    page.tap("#menu")
    page.tap("#new")
    page.wait_for_selector("#new", state="hidden")
    page.tap("#settings")
    assert page.locator("#temperature").is_visible()
    assert widest(page) <= 375


def widest(page):
    """How far to the right anything reaches that does not scroll by itself."""
    return page.evaluate("""() => {
      const inside = "pre, .table-wrap, #sidebar, .skip, .offscreen";
      const seen = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !e.closest(inside));
      const right = seen.map((e) => e.getBoundingClientRect().right);
      return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth, ...right);
    }""")


def test_the_scroll_follows_the_end_only_for_a_reader_who_is_there(page, site):
    site.engine.pace = 0.004
    site.answers["long"] = "A line of text.\n\n" * 60
    page.fill("#message", "long")
    page.keyboard.press("Enter")
    at_end = "(() => { const s = document.querySelector('#scroller');"
    at_end += (
        " return s.scrollHeight > s.clientHeight + 200 && s.scrollHeight - s.scrollTop - s.clientHeight < 60; })()"
    )
    until(page, at_end)
    page.hover("#turns")
    page.mouse.wheel(0, -300)
    page.wait_for_selector(".jump", state="visible")
    top = page.evaluate("document.querySelector('#scroller').scrollTop")
    page.wait_for_selector(".writing", state="detached")
    assert page.evaluate("document.querySelector('#scroller').scrollTop") == pytest.approx(top, abs=400)
    assert not page.evaluate(at_end)
    page.click(".jump")
    assert page.evaluate(at_end)
