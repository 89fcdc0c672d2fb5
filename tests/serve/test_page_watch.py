"""The training page: curves of every stage, read-outs, updates while a run goes on."""

import json

import pytest

from tests.serve.browser import module, until


def write(folder, stage, lines, done=False):
    place = folder / stage
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    if done:
        (place / "done.json").write_text("{}")


def step(number, **more):
    figures = {
        "loss": 5 / number,
        "lr": 1.0,
        "gradient_norm": 1.5,
        "tokens": number * 1000,
        "tokens_per_second": 1234.5,
    }
    return {"step": number, **figures, "mfu": 0.41, "seconds": number * 30.0, **more}


@pytest.fixture
def run(site):
    """The run's folder, with a finished pretraining and the beginning of RL."""
    for stage in ("pretrain", "rl"):
        for file in (site.folder / stage).glob("*"):
            file.unlink()
    write(
        site.folder,
        "pretrain",
        [step(n) for n in range(1, 41)] + [{"step": 40, "val_bpb": 1.2345}, {"step": 20, "val_bpb": 1.5}],
        True,
    )
    rl = [step(n, reward=n / 10, answer_tokens=20) for n in range(1, 4)]
    write(
        site.folder, "rl", [*rl, {"step": 0, "pass@1": 0.4, "pass@8": 0.6}, {"step": 3, "pass@1": 0.5, "pass@8": 0.75}]
    )
    return site.folder


def titles(page):
    return page.locator(".plot-title").all_inner_texts()


def figure(page, name):
    return page.locator(".figure", has=page.get_by_text(name, exact=True)).locator("dd").inner_text()


def test_each_stage_shows_the_curves_that_it_has(new_page, site, run):
    page = new_page()
    page.goto(site.address + "/watch")
    page.wait_for_selector(".plot-card")
    assert page.locator("#run").inner_text() == "toy"
    assert titles(page) == [
        "Policy loss",
        "Reward",
        "Held-out questions",
        "Length of answers",
        "Learning rate",
        "Speed",
        "MFU",
        "Gradient norm",
    ]
    assert figure(page, "pass@1") == "50 %"
    assert "running" in page.locator(".stage-tab.stage-rl").inner_text()
    page.click(".stage-tab.stage-pretrain")
    assert titles(page) == ["Training loss", "Validation", "Learning rate", "Speed", "MFU", "Gradient norm"]
    assert figure(page, "Bits per byte") == "1.2345"
    assert figure(page, "Time") == "20 min 0 s"
    assert "finished" in page.locator(".stage-tab.stage-pretrain").inner_text()


def test_the_curves_go_on_while_the_run_does(new_page, site, run):
    page = new_page()
    page.goto(site.address + "/watch")
    page.wait_for_selector(".plot-card")
    assert figure(page, "Step") == "3"
    write(run, "rl", [step(4, reward=0.9), {"step": 4, "samples": [{"prompt": "Anna lives in", "text": " Longhill."}]}])
    until(page, "document.querySelector('.figure dd').innerText === '4'")
    assert page.locator("#samples li").inner_text() == "Anna lives in Longhill."


def test_pointing_at_a_step_reads_every_curve_there(new_page, site, run):
    page = new_page()
    page.goto(site.address + "/watch")
    page.wait_for_selector(".plot-card")
    reward = page.locator(".plot-card", has_text="Reward")
    assert reward.locator(".plot-read").inner_text() == "30 %"
    box = reward.locator(".plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.11, box["y"] + box["height"] / 2)
    assert reward.locator(".plot-read").inner_text() == "10 %"
    held = page.locator(".plot-card", has_text="Held-out")
    assert [text.split() for text in held.locator("li").all_inner_texts()] == [
        ["pass@1", "40", "%"],
        ["pass@8", "60", "%"],
    ]
    page.mouse.move(0, 0)
    assert reward.locator(".plot-read").inner_text() == "30 %"
    reward.locator(".plot").focus()
    page.keyboard.press("ArrowLeft")
    assert reward.locator(".plot-read").inner_text() == "20 %"
    assert "Reward" in reward.locator(".plot").get_attribute("aria-label")


def test_a_run_without_a_step_says_so(new_page, site):
    for stage in ("pretrain", "rl"):
        for file in (site.folder / stage).glob("*"):
            file.unlink()
    page = new_page()
    page.goto(site.address + "/watch")
    page.wait_for_selector("#nothing", state="visible")
    assert page.locator(".plot-card").count() == 0


def test_ticks_are_round_and_the_nearest_point_is_found(new_page, site):
    page = new_page()
    page.goto(site.address + "/watch")
    assert module(page, "plot.js", "return m.ticks(0, 1, 4);") == [0, 0.5, 1] or module(
        page, "plot.js", "return m.ticks(0, 1, 4);"
    ) == [0, 0.25, 0.5, 0.75, 1]
    assert module(page, "plot.js", "return m.ticks(950, 12000, 5);") == [2500, 5000, 7500, 10000]
    near = "return argument.map((s) => m.nearest([[1, 'a'], [5, 'b'], [9, 'c']], s)[1]).join('');"
    assert module(page, "plot.js", near, [-3, 2.9, 3.1, 6, 8, 100]) == "aabbcc"
    assert module(page, "plot.js", "return m.smooth([[1, 4], [2, 4], [3, 4]]);") == [[1, 4], [2, 4], [3, 4]]


def test_the_way_to_the_chat_is_shown_where_there_is_one(new_page, site):
    page = new_page()
    page.goto(site.address + "/watch")
    page.click("#pages >> text=Chat")
    page.wait_for_selector("#composer")
    alone = new_page()
    alone.route("**/v1/models", lambda route: route.fulfill(status=404, body="{}"))
    alone.goto(site.address + "/watch")
    alone.wait_for_selector("#nothing", state="visible")
    assert alone.locator("#pages").is_hidden()
