"""What the chat page keeps in the browser: conversations, branches, settings; the list, files, tabs."""

import json

import pytest

from tests.serve.browser import answers, ask, begin, left_alone, open_chat, until


def stored(condition):
    """JavaScript: whether it holds for the nodes and picks of the conversations that the browser keeps."""
    return f"""(async () => {{
      const {{ Store }} = await import("/ui/store.js");
      const kept = await (await Store.open()).all();
      const [nodes, picks] = ["nodes", "picks"].map((what) => kept.flatMap((one) => Object.values(one[what])));
      return {condition};
    }})()"""


def test_a_reload_brings_back_the_conversation_its_branch_and_the_settings(page, site):
    ask(page, "one")
    page.click("[aria-label='Answer again']")
    page.wait_for_selector(".answer .branches:not([hidden])")
    page.wait_for_selector(".writing", state="detached")
    page.click("[aria-label='Previous branch']")
    page.fill("#message", "/temperature 0.3")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.toast')?.innerText.includes('0.3')")
    until(page, stored("picks.includes(nodes.find((node) => node.role === 'assistant').id)"))
    page.reload()
    page.wait_for_selector(".answer")
    assert page.locator(".answer .branches").inner_text() == "1/2"
    page.click("#settings")
    assert page.input_value("#temperature") == "0.3"
    ask(page, "two")
    assert site.engine.requests[-1][1].sampling.temperature == pytest.approx(0.3)
    assert page.locator(".question").count() == 2


def test_an_answer_under_way_when_the_page_is_left_is_kept_as_far_as_it_came(page, site):
    begin(page, site, 50)
    page.evaluate("window.dispatchEvent(new Event('pagehide'))")
    until(page, stored("nodes.some((node) => node.events?.[0]?.text.length > 50)"))
    page.reload()
    page.wait_for_selector(".answer")
    assert answers(page)[0].startswith("word word")
    assert "stopped" in page.locator(".facts").inner_text()


def test_conversations_are_listed_searched_renamed_deleted_and_brought_back(page):
    ask(page, "all about apples")
    page.keyboard.press("Control+Shift+N")
    ask(page, "all about pears")
    until(page, "document.querySelectorAll('.row').length === 2")
    titles = page.locator(".row .open")
    assert titles.all_inner_texts() == ["all about pears", "all about apples"]
    page.fill("[type=search]", "APPLES said")
    until(page, "document.querySelectorAll('.row').length === 1")
    assert titles.inner_text() == "all about apples"
    titles.click()
    assert page.locator(".bubble").inner_text() == "all about apples"
    page.fill("[type=search]", "")
    until(page, "document.querySelectorAll('.row').length === 2")
    page.locator(".row", has_text="pears").hover()
    page.click("[aria-label='Rename all about pears']")
    page.keyboard.type("Fruit")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.row .open')?.innerText === 'Fruit'")
    page.locator(".row", has_text="apples").hover()
    page.click("[aria-label='Delete all about apples']")
    page.hover(".toast")  # where it stays
    until(page, "document.querySelectorAll('.row').length === 1")
    page.wait_for_selector(".question", state="detached")
    page.click(".toast-action")
    until(page, "document.querySelectorAll('.row').length === 2")
    assert page.locator(".bubble").inner_text() == "all about apples"


def test_what_is_exported_comes_back_by_import(page, new_page, site, tmp_path):
    site.answers["sum"] = "{python_start}1+1{python_end}{output_start}2{output_end} it is"
    ask(page, "sum")
    page.click("[aria-label='Answer again']")
    page.wait_for_selector(".answer .branches:not([hidden])")
    page.wait_for_selector(".writing", state="detached")
    with page.expect_download() as download:
        page.click(".export-all")
    file = tmp_path / "all.json"
    download.value.save_as(file)
    exported = json.loads(file.read_text())
    assert exported["format"] == "pynanochat-conversations"
    assert len(exported["conversations"][0]["nodes"]) == 3

    other = new_page()
    open_chat(other, site)
    other.set_input_files("[type=file]", file)
    other.wait_for_selector(".answer")
    assert other.locator(".answer .branches").inner_text() == "2/2"
    assert other.locator(".tool-result").inner_text() == "2"
    other.click("[aria-label='Token probabilities']")
    assert other.locator(".token").count() > 3
    other.set_input_files("[type=file]", {"name": "x.json", "mimeType": "application/json", "buffer": b"{}"})
    until(other, "document.querySelector('.toast.bad')?.innerText.includes('does not hold')")


def test_two_tabs_do_not_overwrite_each_other(page, site):
    ask(page, "first")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".answer")
    ask(other, "from the second tab")
    page.click("[aria-label='Answer again']")
    until(page, "document.querySelector('.answer .branches').innerText === '2/2'")
    page.wait_for_selector(".writing", state="detached")
    until(page, stored("nodes.length === 5"))
    other.reload()
    other.wait_for_selector(".answer")
    other.click(".answer [aria-label='Previous branch']")
    assert "from the second tab" in other.locator("#turns").inner_text()


def test_a_full_storage_is_said_and_the_talk_goes_on(page, site):
    page.evaluate("""() => {
      IDBObjectStore.prototype.put = () => { throw new DOMException("full", "QuotaExceededError"); };
    }""")
    ask(page, "hi")
    until(page, "document.querySelector('.toast.bad')?.innerText.includes('storage is full')")
    assert answers(page) == ["You said: hi"]
    ask(page, "still there")
    assert answers(page)[1] == "You said: still there"


def test_a_conversation_deleted_while_it_is_answered_does_not_come_back(page, site):
    begin(page, site)
    page.wait_for_selector(".row")
    page.locator(".row").hover()
    page.click("[aria-label='Delete go']")
    page.wait_for_selector(".row", state="detached")
    site.go_on()
    left_alone(page, site)
    page.wait_for_timeout(150)
    assert page.locator(".row").count() == 0
    page.reload()
    page.wait_for_selector(".stage", state="attached")
    assert page.locator(".row").count() == 0
