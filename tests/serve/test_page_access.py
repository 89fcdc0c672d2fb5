"""For who cannot see or point: every control has a name, text has contrast, keys reach all, endings are announced."""

import pytest

from tests.serve.browser import ask, open_chat, until

CONTROLS = {
    "button", "link", "textbox", "searchbox", "slider", "spinbutton", "switch", "radio", "combobox", "checkbox",
    "option", "listbox", "dialog", "navigation", "complementary", "form", "DisclosureTriangle", "figure",
}  # fmt: skip

# Text whose colour differs from what is behind it by less than 4.5 to 1 (3 to 1 where it is large); colours are mixed
# as the browser mixes them, by painting.
FAINT = """() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colours) => {
    paint.clearRect(0, 0, 1, 1);
    for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    const found = [];
    for (let at = element; at; at = at.parentElement) found.unshift(getComputedStyle(at).backgroundColor);
    return found;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest(":disabled, .skip, .offscreen, noscript")) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const ground = behind(element);
    const [a, b] = [light(rgba(ground)), light(rgba([...ground, colour]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const what = [element.textContent.trim().slice(0, 40), element.className, ratio.toFixed(2)];
    if (ratio < (large ? 3 : 4.5)) found.push(what);
  }
  return found;
}"""

# Nothing fades in or out, so that colours are those that stay.
STILL = "document.getAnimations().every((a) => a.effect.getComputedTiming().endTime === Infinity)"


def nameless(page):
    """Roles and nodes of Chromium's own accessibility tree that have no name."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    return [
        entry["role"]["value"]
        for entry in tree
        if not entry.get("ignored")
        and entry["role"]["value"] in CONTROLS
        and not entry.get("name", {}).get("value", "").strip()
    ]


def states(page, site):
    """The page in each of its shapes."""
    site.answers["all"] = (
        "# Title\n\nSome *text*, `code`, [a link](https://x.org)\n\n- one\n\n> quote\n\n```py\ncode\n```"
        "\n\n| a |\n|---|\n| 1 |"
        "\n\n{python_start}1+1{python_end}{output_start}2{output_end}\n\n#### 12"
    )
    yield "start"
    ask(page, "all")
    ask(page, "all")
    page.locator("[aria-label='Answer again']").last.click()
    until(
        page,
        "document.querySelectorAll('.answer .branches:not([hidden])').length && !document.querySelector('.writing')",
    )
    page.locator(".question").last.hover()
    yield "answers"
    page.click("#settings")
    page.locator(".tool summary").first.click()
    page.locator("[aria-label='Token probabilities']").last.click()
    page.locator(".token").first.hover()
    yield "settings, an open tool call and tokens"
    page.fill("#message", "/")
    yield "commands"
    page.fill("#message", "")
    page.click("#close-panel")
    page.click(".compare-button")
    site.answers["all"] = "short"
    ask(page, "all")
    yield "side by side"
    page.click("#help")
    yield "help"
    page.keyboard.press("Escape")
    page.context.set_offline(True)
    page.click(".compare-button")
    page.fill("#message", "hi")
    page.keyboard.press("Enter")
    page.wait_for_selector(".trouble")
    page.fill("#message", "/none")
    page.keyboard.press("Enter")
    page.wait_for_selector(".toast.bad")
    yield "trouble"
    page.context.set_offline(False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_every_text_contrast(new_page, site, scheme):
    page = new_page(color_scheme=scheme)
    open_chat(page, site)
    for state in states(page, site):
        until(page, STILL)
        assert not nameless(page), state
        assert not page.evaluate(FAINT), state


def test_the_tab_key_reaches_what_matters_in_order(new_page, site):
    page = new_page()
    open_chat(page, site)
    page.evaluate("document.activeElement.blur(); document.body.focus()")
    seen = []
    for _ in range(24):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    order = ["skip", "new", "menu", "help", "settings", "prompt", "message"]
    places = [seen.index(name) for name in order if name in seen]
    assert len(places) == len(order), seen
    assert places == sorted(places), seen
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_a_screen_reader_hears_the_answer_once_it_has_ended(new_page, site):
    page = new_page()
    open_chat(page, site)
    assert page.get_attribute("#announcer", "aria-live") == "polite"
    site.answers["hi"] = "hello **you**"
    ask(page, "hi")
    assert page.locator("#announcer").text_content() == "RL: hello **you**"
    assert page.get_attribute(".answer", "aria-busy") == "false"


def test_nothing_moves_for_a_reader_who_wants_no_motion(new_page, site):
    page = new_page(reduced_motion="reduce")
    open_chat(page, site)
    site.engine.pace = 0.01
    site.answers["go"] = "word " * 100
    page.fill("#message", "go")
    page.keyboard.press("Enter")
    page.wait_for_selector(".writing")
    moving = "document.getAnimations().filter((a) => a.effect.getComputedTiming().duration > 50).length"
    assert page.evaluate(moving) == 0
    page.keyboard.press("Escape")
    page.wait_for_selector(".writing", state="detached")
