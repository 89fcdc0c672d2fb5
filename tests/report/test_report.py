"""The report of runs that are whole, young, damaged and hostile. The run folders are made here, by hand."""

import base64
import html.parser
import json
import math
import random
import re
import shutil
import subprocess
import sys

import pytest

from pynanochat.errors import DataError, UsageError
from pynanochat.report import describe_environment, write_report
from pynanochat.report.commands import main
from pynanochat.report.compare import labels
from pynanochat.report.environment import command_line
from pynanochat.report.plots import smooth
from pynanochat.report.words import duration

HOSTILE = "<script>alert(1)</script> | `x` ```\n# not a heading ![](http://evil/x.png) &amp; \x00 \u202e é 漢"


def write(folder, name, value):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value))


def metrics(steps=200, start=9.0, hostile=""):
    rng, lines = random.Random(0), []
    for step in range(1, steps + 1):
        loss = 2.5 + (start - 2.5) * math.exp(-step / 40) + rng.gauss(0, 0.08)
        speed = {"tokens_per_second": 21000.0, "mfu": 0.46, "seconds": 0.8 * step}
        lines.append({"step": step, "loss": loss, "lr": 1.0, "tokens": step * 16384, **speed})
        if step % 50 == 0:
            lines.append({"step": step, "val_bpb": 0.9 + math.exp(-step / 40)})
            first = {"prompt": "The baker of", "text": f" the town at {step}{hostile}"}
            lines.append({"step": step, "samples": [first, {"prompt": "2+2", "text": "=4"}]})
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_time_and_cost_are_those_of_the_wall_clock(run):
    summary = json.loads((run / "pretrain/summary.json").read_text())
    write(run, "pretrain/summary.json", summary | {"wall_seconds": 600.0})
    text = write_report(run).read_text()
    assert "| BASE | 10 min 0 s | 3,276,800 | 20,480 |" in text and "| $4.00 |" in text


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "toy"
    tables = {
        "run": {"data": "toyworld", "seed": 0, "price_per_hour": 24.0},
        "pretrain": {"depth": 4, "arch": "2026", "sequence_len": 512},
    }
    write(folder, "settings.json", tables)
    write(folder, "environment.json", describe_environment())
    write(folder, "tokenizer/eval.json", {"bytes_per_token": {"train": 4.51, "val": 4.43}})
    write(folder, "tokenizer/summary.json", {"vocab_size": 4096, "seconds": 3.5})
    write(folder, "pretrain/metrics.jsonl", metrics())
    summary = {"steps": 200, "tokens": 3276800, "seconds": 160.0, "tokens_per_second": 20480.0, "mfu": 0.45}
    summary |= {"flops": 1.5e14, "val_bpb": 0.9067, "parameters": 11534418, "peak_memory_bytes": 2**31}
    write(folder, "pretrain/summary.json", summary | {"skipped_steps": 0, "dtype": "bfloat16"})
    return folder


class Tags(html.parser.HTMLParser):
    """Counts tags and checks that they are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.sources = [], [], []
        self.feed(text)
        assert not self.open

    def pictures(self):
        return self.seen.count("img")

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("img", "meta", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_whole_run(run):
    path = write_report(run)
    assert path == run / "report.md"
    text, page = path.read_text(), (run / "report.html").read_text()
    assert "Not finished" not in text
    assert "11,534,418 parameters; 4 layers, 2026 architecture; 3,276,800 tokens; 0.9067 bits per byte" in text
    assert "| validation bpb |  |  | 0.9067 | – | – | – |" in text
    assert "| BASE | 2 min 40 s | 3,276,800 | 20,480 | 45.0% | 1.50e+14 | $1.07 |" in text
    assert "| total | 2 min 44 s |" in text
    assert "| train | 4.510 |" in text
    assert "| sequence\\_len | 512 |" in text
    assert "The baker of▸ the town at 200" in text
    assert text.index("## Summary") < text.index("## Time") < text.index("## BASE") < text.index("## Environment")
    names = re.findall(r'src(?:set)?="(.*?)"', text)
    assert names == ["report/pretrain-dark.png", "report/pretrain.png"]
    pngs = [(run / name).read_bytes() for name in names]
    assert all(png.startswith(b"\x89PNG") for png in pngs)
    assert pngs[0] != pngs[1]
    tags = Tags(page)
    assert tags.pictures() == 1
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in tags.sources] == pngs
    for needle in ("11,534,418", "validation bpb", "The baker of", "sequence_len", "$1.07"):
        assert needle in page


def test_nothing_in_the_page_comes_from_elsewhere(run):
    write_report(run)
    page = (run / "report.html").read_text()
    assert all(source.startswith("data:image/png;base64,") for source in Tags(page).sources)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)


def test_what_the_model_wrote_is_only_text(run):
    write(run, "pretrain/metrics.jsonl", metrics(hostile=HOSTILE))
    write(run, "settings.json", {"run": {HOSTILE: HOSTILE}})
    write(run, "eval/summary.json", {"evals": {"pretrain": {HOSTILE: 0.5}}})
    text, page = write_report(run).read_text(), (run / "report.html").read_text()
    tags = Tags(page)
    assert "script" not in tags.seen
    assert tags.pictures() == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    outside, fence = [], None
    for line in text.splitlines():
        ticks = re.match("`{3,}", line)
        if fence is None and ticks:
            fence = ticks.group()
        elif fence is not None and line == fence:
            fence = None
        elif fence is None:
            outside.append(line)
    assert fence is None
    assert not any(line.startswith("# not") for line in outside)
    unescaped = re.sub(r"\\.", "", "\n".join(outside))
    ours = re.findall(r"<(/?)(picture|source|img|details|summary)\b", unescaped)
    assert unescaped.count("<") == len(ours)
    assert "![" not in unescaped
    assert unescaped.count("<img") == 2
    assert not re.search("[\x00\u202e]", text + page)
    tables = [re.sub(r"\\.", "", line) for line in outside if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {3, 7, 8}


def test_a_run_that_was_killed(run):
    whole = metrics()
    write(run, "pretrain/metrics.jsonl", whole + '{"step": 201, "loss": 2.4, "se')
    (run / "pretrain/summary.json").unlink()
    text = write_report(run).read_text()
    assert "| BASE | 2 min 40 s | 3,276,800 | 21,000 | 46.0% | – |" in text
    assert "0.9067" in text  # the last validation of the metrics
    assert "| steps | 200 |" in text
    assert "Not finished: the figures are those up to step 200." in text


def test_numbers_that_are_not_finite(run):
    lines = [
        {"step": 1, "loss": math.nan},
        {"step": 2, "loss": math.inf, "val_bpb": math.nan},
        {"step": None, "loss": "high", "samples": "none"},
        {"step": 3, "samples": ["text", {"prompt": 3}]},
        ["no", "object"],
    ]
    write(run, "pretrain/metrics.jsonl", metrics(20) + "\n".join(map(json.dumps, lines)) + "\nnull\n\n{")
    write(run, "pretrain/summary.json", {"val_bpb": math.nan, "seconds": None, "mfu": math.inf, "parameters": True})
    text = write_report(run).read_text()
    assert (run / "report/pretrain.png").exists()
    assert "nan" not in text.lower().replace("nano", "")
    assert "inf" not in text.lower()


def test_only_not_finite_numbers_draw_nothing(run):
    write(run, "pretrain/metrics.jsonl", '{"step": 1, "loss": NaN}\n{"step": 2, "loss": NaN}\n')
    assert "<picture>" not in write_report(run).read_text()


def test_young_runs(tmp_path):
    folder = tmp_path / "young"
    write(folder, "settings.json", {"run": {"data": "toyworld", "price_per_hour": 0.0}})
    text = write_report(folder).read_text()
    assert "Nothing is trained yet." in text
    assert "## Summary" not in text
    write(folder, "tokenizer/summary.json", {"vocab_size": 512, "seconds": 1.25})
    text = write_report(folder).read_text()
    assert "| Tokenizer | 1.2 s |" in text
    assert "$" not in text


def test_damaged_json_is_named_and_left_out(run):
    write(run, "environment.json", '{"cpu": ')
    write(run, "tokenizer/eval.json", "[1]")
    text = write_report(run).read_text()
    assert "environment.json could not be read (JSONDecodeError)" in text
    assert "eval.json does not hold a JSON object" in text
    assert "## Environment" not in text


def test_the_summary_table_fills_up_with_stages(run):
    for name in ("midtrain", "sft", "rl"):
        write(run, f"{name}/metrics.jsonl", metrics(60, 4.0))
    write(run, "sft/summary.json", {"seconds": 30.0, "evals": {"ARC-Easy": 0.3876, "GSM8K": 0.0455}})
    scores = {"pretrain": {"CORE": 0.2219}, "midtrain": {"ARC-Easy": 0.3561, "Extra": 1}, "rl": {"GSM8K": 0.0758}}
    write(run, "eval/summary.json", {"evals": scores, "seconds": 3723})
    text = write_report(run).read_text()
    table = text[text.index("## Summary") : text.index("## Time")].splitlines()
    assert [line for line in table if line.startswith("|")] == [
        "|  | questions | guessing | BASE | MID | SFT | RL |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| validation bpb |  |  | 0.9067 | {0.9 + math.exp(-50 / 40):.4f} | {0.9 + math.exp(-50 / 40):.4f} "
        f"| {0.9 + math.exp(-50 / 40):.4f} |",
        "| CORE | – |  | 0.2219 | – | – | – |",
        "| ARC-Easy | – |  | – | 0.3561 | 0.3876 | – |",
        "| GSM8K | – |  | – | – | 0.0455 | 0.0758 |",
        "| Extra | – |  | – | 1.0000 | – | – |",
    ]
    assert "| Evaluation | 1 h 2 min |" in text
    assert text.count("<picture>") == 5


def test_other_vocabularies_stand_beside_ours(run):
    measured = {"news": {"ours": 4.2, "GPT-2": 4.67}, "korean": {"ours": 2.1, "GPT-4": 2.0}}
    write(run, "tokenizer/eval.json", {"bytes_per_token": measured})
    text = write_report(run).read_text()
    assert "| text | ours | GPT-2 | GPT-4 |" in text
    assert "| korean | 2.100 | – | 2.000 |" in text


def test_the_command(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parents[1])
    for arguments in (["toy"], ["--run", "toy"], [], [str(run)]):
        (run / "report.md").unlink(missing_ok=True)
        assert main(arguments) == 0
        assert (run / "report.md").exists()
        assert "report.html" in capsys.readouterr().out
    with pytest.raises(DataError, match="runs/none: no such run"):
        main(["none"])
    (run.parent / "empty").mkdir()
    with pytest.raises(DataError, match="nothing of a run in it"):
        main(["empty"])
    monkeypatch.chdir(run)
    with pytest.raises(UsageError, match="holds no run"):
        main([])


def test_environment():
    facts = describe_environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert {"cpu", "gpus", "python", "torch", "pynanochat"} <= set(facts)
    assert re.fullmatch(r"[0-9a-f]{40}( \(changed\))?", facts.get("commit", "0" * 40))


def test_writing_a_report_needs_no_torch(run):
    code = f"import sys, pathlib; from pynanochat.report import write_report; write_report(pathlib.Path({str(run)!r}))"
    code += "; assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_duration_and_smoothing():
    assert [duration(s) for s in (0.04, 59.94, 60, 3599.6, 13860)] == [
        "0.0 s",
        "59.9 s",
        "1 min 0 s",
        "1 h 0 min",
        "3 h 51 min",
    ]
    assert smooth([3.0] * 500) == pytest.approx([3.0] * 500)
    noisy = [5.0 + (-1) ** i for i in range(500)]
    assert max(abs(v - 5.0) for v in smooth(noisy)[50:-50]) < 0.2
    falling = [1000.0 - i for i in range(500)]
    assert smooth(falling) == pytest.approx(falling)
    assert smooth([]) == []
    assert smooth([1.0, 3.0]) == [1.0, 3.0]


def score(task, value, total=200, **more):
    low, high = max(0.0, value - 0.07), min(1.0, value + 0.07)
    facts = {"task": task, "score": value, "low": low, "high": high, "correct": round(value * total), "total": total}
    return facts | {"baseline": 0.25, "centred": (value - 0.25) / 0.75, "seconds": 2.0} | more


def bins(*pairs):
    return [
        {"low": c - 0.05, "high": c + 0.05, "count": 20, "confidence": c, "accuracy": a, "extra": None}
        for c, a in pairs
    ]


EXAMPLES = [
    {"prompt": f"Where does Ann{i} live?", "answer": "B", "reference": "BA"[i % 2], "correct": i % 2 == 0}
    | {"letters_probabilities": {"A": 0.25, "B": 0.75}}
    for i in range(10)
]


@pytest.fixture
def evaluated(run):
    write(run, "sft/metrics.jsonl", metrics(60, 4.0))
    for stage, value in (("pretrain", 0.27), ("sft", 0.8)):
        easy = score("ARC-Easy", value, examples=EXAMPLES, reliability=bins((0.3, 0.2), (0.7, 0.9)))
        write(run, f"eval/{stage}/ARC-Easy.json", {"stage": stage} | easy)
    write(run, "eval/sft/ToyWorld-Math.json", score("ToyWorld-Math", 0.4, pass_at={"1": 0.4, "8": 0.7}, baseline=0))
    write(run, "eval/sft/ChatCORE.json", score("ChatCORE (1 of 6 tasks)", 0.73, baseline=0.0))
    write(run, "eval/pretrain/core/copa.json", score("CORE/copa", 0.58, 100))
    mmlu = {"evals": {"pretrain": {"MMLU": 0.26}}, "intervals": {"pretrain": {"MMLU": [0.2, 0.3]}}}
    write(run, "eval/summary.json", mmlu)
    return run


def test_results_of_an_evaluation(evaluated):
    text = write_report(evaluated).read_text()
    for line in (
        "| ARC-Easy | 200 | 0.25 | 0.2700 (0.20–0.34) | – | 0.8000 (0.73–0.87) | – |",
        "| MMLU | – |  | 0.2600 (0.20–0.30) | – | – | – |",
        "| ChatCORE (1 of 6 tasks) | 200 | 0.00 | – | – | 0.7300 (0.66–0.80) | – |",
        "| ToyWorld-Math | 200 | 0.00 | – | – | 0.4000 (0.33–0.47) | – |",
        "| ARC-Easy | 0.150 | – | 0.150 | – |",
        "| ToyWorld-Math, SFT | 0.400 | 0.700 |",
        "| copa | 100 | 0.25 | 0.5800 (0.51–0.65) | 0.440 |",
    ):
        assert line in text, line
    order = [text.index(f"\n| {name}") for name in ("ARC-Easy |", "MMLU", "ChatCORE", "ToyWorld-Math |")]
    assert order == sorted(order)
    for name in ("accuracy", "reliability"):
        light, dark = ((evaluated / f"report/{name}{end}.png").read_bytes() for end in ("", "-dark"))
        assert light != dark


def test_ten_answers_of_each_task_and_the_wrong_ones_marked(evaluated):
    text, page = write_report(evaluated).read_text(), (evaluated / "report.html").read_text()
    assert "<summary>ARC-Easy: 5 of these 10 answers of SFT are right</summary>" in text
    for number in range(10):
        assert f"Where does Ann{number} live?" in text
    assert text.count("✓ right; A 0.25, B 0.75") == 5
    assert text.count("✗ wrong; right is: A; A 0.25, B 0.75") == 5
    assert page.count("✗ wrong") == 5


def test_damaged_results_are_left_out(evaluated):
    write(evaluated, "eval/sft/Broken.json", '{"task": "Broken", "sc')
    write(evaluated, "eval/sft/NaN.json", '{"task": "NaN", "score": NaN}')
    write(evaluated, "eval/sft/List.json", "[1, 2]")
    write(evaluated, "eval/sft/Deep.json", "[" * 200_000)
    odd = {"low": None, "high": "x", "examples": [1, {"prompt": 3}, {}], "reliability": [0, {"count": 0}]}
    write(evaluated, "eval/sft/Odd.json", {"task": "$x_{", "score": 0.5, "total": -1, "pass_at": [1]} | odd)
    write(evaluated, "eval/summary.json", {"evals": [], "intervals": 3, "seconds": "long"})
    (evaluated / "eval/rl/folder.json").mkdir(parents=True)
    text = write_report(evaluated).read_text()
    assert re.search(r"Broken.json could not be read", text)
    assert re.search(r"Deep.json could not be read", text)
    assert re.search(r"folder.json could not be read", text)
    assert "List.json does not hold a JSON object" in text
    assert "| $x\\_\\{ | -1 |  | – | – | 0.5000 | – |" in text
    assert "| NaN" not in text


RL = "".join(
    json.dumps({"step": s, "loss": -0.1, "reward": 0.3 + s / 100, "answer_tokens": 60.0, "tokens_per_second": 9.0})
    + "\n"
    for s in range(1, 41)
) + "".join(
    json.dumps({"step": s, "pass@1": 0.3 + s / 200, "pass@8": 0.8, "val_answer_tokens": 61.0}) + "\n" for s in (10, 40)
)


def test_curves_of_reinforcement_learning(run):
    write(run, "rl/metrics.jsonl", RL)
    write_report(run)
    whole = (run / "report/rl.png").read_bytes()
    write(run, "rl/metrics.jsonl", RL.replace("pass@1", "other"))
    write_report(run)
    assert (run / "report/rl.png").read_bytes() != whole


def test_price_and_the_same_again(run):
    facts = {"commit": "0123abcd (changed)", "command": "pynanochat speedrun --run toy --seed 7"}
    write(run, "environment.json", facts)
    text = write_report(run, price_per_hour=3.0).read_text()
    assert "At $3.00 an hour." in text
    assert "```sh\ngit checkout 0123abcd\npynanochat speedrun --run toy --seed 7\n```" in text
    assert "changes that no commit holds" in text
    assert "$" not in write_report(run, price_per_hour=0.0).read_text()


def test_the_command_line_as_it_is_typed():
    assert command_line(["/usr/bin/python3", "-m", "pynanochat.speedrun", "--run", "a b"]) == (
        "python3 -m pynanochat.speedrun --run 'a b'"
    )
    assert command_line(["/x/python", "/x/bin/pynanochat", "rl", "--run", "toy"]) == "pynanochat rl --run toy"


def test_runs_side_by_side(evaluated, tmp_path, monkeypatch, capsys):
    other = tmp_path / "runs" / "other"
    shutil.copytree(evaluated, other)
    write(other, "settings.json", {"run": {"seed": 1, "price_per_hour": 24.0}, "pretrain": {"depth": 6}})
    write(other, "eval/sft/ARC-Easy.json", score("ARC-Easy", 0.9))
    (other / "pretrain/summary.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "toy", "other", "--price-per-hour", "12", "--out", "both"]) == 0
    assert "both/report.html" in capsys.readouterr().out
    text = (tmp_path / "both/report.md").read_text()
    for line in (
        "|  | toy | other |",
        "| parameters | 11,534,418 | – |",
        "| ARC-Easy, SFT | 0.25 | 0.8000 (0.73–0.87) | 0.9000 (0.83–0.97) |",
        "| run.seed | 0 | 1 |",
        "| pretrain.depth | 4 | 6 |",
        "| pretrain.arch | 2026 | – |",
        "other: pretrain/summary.json could not be read",
    ):
        assert line in text, line
    pictures = Tags((tmp_path / "both/report.html").read_text()).pictures()
    assert pictures == 3 == text.count("<picture>")
    assert len(list((tmp_path / "both/report").glob("*.png"))) == 6


def test_comparing_takes_runs_that_are_there(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    with pytest.raises(UsageError, match="two runs or more"):
        main(["compare", "toy"])
    with pytest.raises(UsageError, match="one report at a time"):
        main(["toy", "toy"])
    with pytest.raises(DataError, match="no such run"):
        main(["compare", "toy", "none"])
    with pytest.raises(UsageError, match="--price-per-hour"):
        main(["toy", "--price-per-hour", "nan"])


def test_labels_tell_runs_apart(tmp_path):
    assert labels([tmp_path / "a/x", tmp_path / "b/y"]) == ["x", "y"]
    assert labels([tmp_path / "a/x", tmp_path / "b/x"]) == ["a/x", "b/x"]
    assert len(set(labels([tmp_path / "a", tmp_path / "a"]))) == 2
