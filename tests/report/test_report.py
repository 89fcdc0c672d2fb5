"""The report of runs that are whole, young, damaged and hostile. The run folders are made here, by hand."""

import base64
import html.parser
import json
import math
import random
import re
import subprocess
import sys

import pytest

from pynanochat.errors import DataError, UsageError
from pynanochat.report import describe_environment, write_report
from pynanochat.report.commands import main
from pynanochat.report.compose import duration
from pynanochat.report.plots import smooth

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

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_whole_run(run):
    path = write_report(run)
    assert path == run / "report.md"
    text, page = path.read_text(), (run / "report.html").read_text()
    assert "Not finished" not in text
    assert "11,534,418 parameters; 4 layers, 2026 architecture; 3,276,800 tokens; 0.9067 bits per byte" in text
    assert "| validation bpb | 0.9067 | – | – | – |" in text
    assert "| BASE | 2 min 40 s | 3,276,800 | 20,480 | 45.0% | 1.50e+14 | $1.07 |" in text
    assert "| total | 2 min 44 s |" in text
    assert "| train | 4.510 |" in text
    assert "| sequence\\_len | 512 |" in text
    assert "The baker of▸ the town at 200" in text
    assert text.index("## Summary") < text.index("## Time") < text.index("## BASE") < text.index("## Environment")
    (name,) = re.findall(r"!\[.*?\]\((.*?)\)", text)
    png = (run / name).read_bytes()
    assert png.startswith(b"\x89PNG")
    tags = Tags(page)
    assert tags.seen.count("img") == 1
    assert base64.b64decode(tags.sources[0].removeprefix("data:image/png;base64,")) == png
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
    assert tags.seen.count("img") == 1
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
    assert "<" not in unescaped
    assert unescaped.count("![") == 1
    assert not re.search("[\x00\u202e]", text + page)
    tables = [re.sub(r"\\.", "", line) for line in outside if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {3, 6, 7, 8}


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
    assert "![" not in write_report(run).read_text()


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
        "|  | BASE | MID | SFT | RL |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| validation bpb | 0.9067 | {0.9 + math.exp(-50 / 40):.4f} | {0.9 + math.exp(-50 / 40):.4f} "
        f"| {0.9 + math.exp(-50 / 40):.4f} |",
        "| CORE | 0.2219 | – | – | – |",
        "| ARC-Easy | – | 0.3561 | 0.3876 | – |",
        "| GSM8K | – | – | 0.0455 | 0.0758 |",
        "| Extra | – | 1.0000 | – | – |",
    ]
    assert "| Evaluation | 1 h 2 min |" in text
    assert text.count("![") == 4


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
