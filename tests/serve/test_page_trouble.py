"""The chat page in trouble: a crash, a server that is not ready, busy, out of reach or locked."""

from tests.serve.browser import answers, ask, begin, site_of, until


def test_a_crash_in_the_midst_keeps_the_text_and_offers_to_try_again(page, site):
    begin(page, site)
    site.call(site.engine.crash, True)
    page.wait_for_selector(".trouble")
    assert "broke off" in page.locator(".trouble").inner_text()
    assert answers(page)[0].startswith("word word")
    site.answers["go"] = "fine now"
    page.click(".trouble button")
    until(page, "document.querySelector('.answer .markdown').innerText === 'fine now'")
    assert page.locator(".answer .branches").inner_text() == "2/2", "what came before the crash stays"


def test_a_server_that_is_not_ready_is_waited_for(new_page, site):
    site.app.desk.ready = False
    page = new_page()
    page.goto(site.address + "/")
    until(page, "document.querySelector('#banner').innerText.includes('getting ready')")
    site.app.desk.ready = True
    page.wait_for_selector(".stage", state="attached")
    assert page.locator("#banner").inner_text() == ""


def test_a_busy_server_is_asked_again_after_the_time_it_names(page, site):
    from pynanochat.serve.faults import Fault

    check = site.app.desk.check

    def busy(*_):
        raise Fault(429, "256 requests wait: try again in 1 s", code="queue_full", headers={"Retry-After": "1"})

    site.app.desk.check = busy
    page.evaluate("""() => {
      window.disabled = [];
      const look = () => document.querySelectorAll(".trouble button").forEach((b) => window.disabled.push(b.disabled));
      new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
    }""")
    page.fill("#message", "hi")
    page.keyboard.press("Enter")
    page.wait_for_selector(".trouble")
    assert "many readers" in page.locator(".trouble").inner_text()
    assert page.evaluate("window.disabled[0]"), "at first; a second later it is not"
    site.app.desk.check = check
    page.click(".trouble button:not([disabled])")
    until(page, "document.querySelector('.answer .markdown').innerText === 'You said: hi'")
    assert page.locator(".answer .branches").is_hidden(), "an answer of which nothing came leaves no branch"


def test_offline_is_said_and_the_message_is_not_lost(page, site):
    page.context.set_offline(True)
    page.fill("#message", "hi")
    page.keyboard.press("Enter")
    page.wait_for_selector(".trouble")
    assert "offline" in page.locator(".trouble").inner_text()
    page.context.set_offline(False)
    page.click(".trouble button")
    until(page, "document.querySelector('.answer .markdown').innerText === 'You said: hi'")


def test_a_server_with_a_key_asks_for_it(chromium, new_page, site, tmp_path):
    with site_of(tmp_path / "toy", key="open sesame") as locked:
        page = new_page()
        page.goto(locked.address + "/")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#key') && !document.querySelector('#key').value")
        page.fill("#key", "open sesame")
        page.click("text=Use this key")
        page.wait_for_selector(".stage", state="attached")
        ask(page, "hi")
        assert answers(page) == ["You said: hi"]
        assert "sesame" not in page.evaluate("JSON.stringify(localStorage)"), "kept for this tab only, unless asked to"
