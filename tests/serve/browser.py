"""Chromium on a whole server with a FakeEngine, for the tests of the pages; without Chromium they are skipped.

    def test_it(site, page): site.answers["hi"] = "hello"; page.goto(site.address) ...

Each test gets a browser context of its own, so an empty storage; it fails where the page threw, broke the
Content-Security-Policy or asked for anything but this server.
"""

import asyncio
import contextlib
import json
import shutil
import threading
import time

import pytest

from pynanochat.serve.app import App
from pynanochat.serve.gate import Access, Gate
from pynanochat.serve.limits import Defaults, Limits
from pynanochat.serve.server import Server
from tests.serve.fakes import ByteTokenizer, FakeEngine, ids_of

STAGES = ("pretrain", "midtrain", "sft", "rl")
TIMEOUT_MS = 60_000
PATIENCE = 60
WATCHES = """
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


class Site:
    """A server in a thread of its own. `answers[message]` is what the models say to a message; others are echoed."""

    def __init__(self, folder, key=None):
        self.answers: dict[str, str] = {}
        self.engine = FakeEngine(self._script, STAGES, context=2048)
        self.folder = folder
        self.access = Access(key=key)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _script(self, stage, request):
        message = _last_message(request.prompt)
        answer = self.answers.get(message, f"You said: {message}")
        return [ids_of(f"{answer.replace('{stage}', stage)}{{assistant_end}}")] * request.samples

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self):
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self.loop).result(PATIENCE)

    async def _serve(self):
        self.app = App(self.engine, self.folder, Limits(), Defaults())
        self.server = Server(Gate(self.app.routes, self.access, self.app.metrics), Limits(), self.app.desk)
        await self.server.listen("127.0.0.1", 0)
        await self.engine.start()
        self.app.desk.ready = True
        self.address = self.server.address

    def call(self, function, *arguments):
        """Call a function in the server's thread; its result."""

        async def do():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(do(), self.loop).result(PATIENCE)

    def pause(self):
        self.call(self.engine.gate.clear)

    def go_on(self):
        self.call(self.engine.gate.set)

    def reset(self):
        self.answers.clear()
        self.engine.requests.clear()
        self.engine.pace = 0.0
        self.engine.alive = True
        self.go_on()
        self.app.desk.ready = True

    def stop(self):
        self.server.stop()
        self.server.stop()
        asyncio.run_coroutine_threadsafe(self.server.close(), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)


def _last_message(prompt) -> str:
    """What stands between the last <|user_start|> and its end; without one, all of the text."""
    special = ByteTokenizer.special_tokens
    start, end = special["<|user_start|>"], special["<|user_end|>"]
    ids = list(prompt)
    if start in ids:
        ids = ids[len(ids) - ids[::-1].index(start) :]
        ids = ids[: ids.index(end)] if end in ids else ids
    return bytes(id for id in ids if id < 256).decode(errors="replace")


@contextlib.contextmanager
def site_of(folder, key=None):
    site = Site(folder, key)
    site.start()
    try:
        yield site
    finally:
        site.stop()


@pytest.fixture(scope="module")
def site_of_module(tmp_path_factory):
    with site_of(tmp_path_factory.mktemp("runs") / "toy") as site:
        yield site


@pytest.fixture
def site(site_of_module):
    site_of_module.reset()
    return site_of_module


@pytest.fixture(scope="module")
def chromium():
    """A browser, for one module only: playwright's event loop would be in the way of the tests that have their own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on the path")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium, site):
    """new_page(**context options): a page that is watched for errors; looked at again when the test ends."""
    contexts, troubles = [], []

    def make(**options):
        context = chromium.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"} | options
        )
        context.set_default_timeout(TIMEOUT_MS)
        context.add_init_script(WATCHES)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: _check_request(request.url, troubles))
        return page

    yield make
    for context in contexts:
        for page in context.pages:
            if page.url.startswith("http"):
                troubles += [f"violation: {one}" for one in page.evaluate("window.violations")]
        context.close()
    assert not troubles, troubles


def _check_request(url, troubles):
    if not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:image/svg")):
        troubles.append(f"request to {url}")


@pytest.fixture
def page(new_page, site):
    """The chat page, ready."""
    page = new_page()
    open_chat(page, site)
    return page


def open_chat(page, site):
    page.goto(site.address + "/")
    page.wait_for_selector(".stage", state="attached")


def ask(page, text):
    """Send a message and wait for the end of its answers."""
    before = page.locator(".turn").count()
    page.fill("#message", text)
    page.keyboard.press("Enter")
    until(page, f"document.querySelectorAll('.turn').length >= {before + 2} && !document.querySelector('.writing')")


def begin(page, site, letters=20):
    """Send "go", whose answer is long, and let the engine pause once so many letters of it are shown."""
    site.engine.pace = 0.02
    site.answers["go"] = "word " * 400
    page.fill("#message", "go")
    page.keyboard.press("Enter")
    until(page, f"document.querySelector('.answer .markdown')?.innerText.length > {letters}")
    site.pause()


def left_alone(page, site):
    """Wait until the engine has heard that nobody reads its answers any more."""
    end = time.monotonic() + PATIENCE
    while site.engine.live:
        assert time.monotonic() < end, "the engine still works on an answer"
        page.wait_for_timeout(20)


def answers(page):
    return page.locator(".answer .markdown").all_inner_texts()


def until(page, expression):
    """Wait until a JavaScript expression holds. (Playwright's own waiting needs eval, which the policy forbids.)"""
    end = time.monotonic() + TIMEOUT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never so: {expression}"
        page.wait_for_timeout(20)


def module(page, name, body, argument=None):
    """Run the body of an async function with the names of module `name` of the page in scope as `m`."""
    return page.evaluate(f"async (argument) => {{ const m = await import('/ui/{name}'); {body} }}", argument)


def conversation_file(*conversations) -> dict:
    """A file to import, as playwright wants it."""
    content = {"format": "pynanochat-conversations", "version": 1, "conversations": list(conversations)}
    return {"name": "c.json", "mimeType": "application/json", "buffer": json.dumps(content).encode()}
