"""The README's commands do what it says: the main job runs as printed there, and its figures are read back."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands():
    """Every command line of the README's sh blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def split(line):
    return [part.strip() for part in line.split("&&")]


def test_the_first_two_commands_are_run_and_test():
    assert split(commands()[0]) == ["pip install .", "python -m pynanochat.speedrun"]
    assert split(commands()[1]) == ["pip install '.[test]'", "pytest"]
    assert re.search(r"^test = \[", (ROOT / "pyproject.toml").read_text(), re.M)


def test_every_command_named_in_the_readme_exists():
    from pynanochat.cli import COMMANDS

    named = set(re.findall(r"pynanochat (\w+)", "\n".join(commands())))
    assert named and named <= set(COMMANDS)


def test_every_file_of_the_map_exists():
    tree = README.split("## The house")[1]
    for path in re.findall(r"^\| `([^`]+)` \|", tree, re.M):
        assert (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """The README's main job, exactly as printed, in an empty folder."""
    folder = tmp_path_factory.mktemp("readme")
    argv = [sys.executable, *split(commands()[0])[1].split()[1:]]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_the_main_job_ends_with_a_report_and_the_command_to_talk(default_run):
    folder, output = default_run
    assert (folder / "runs/toy/report.md").exists() and (folder / "runs/toy/report.html").exists()
    talk = output.strip().splitlines()[-1].split()
    assert talk[:2] == ["pynanochat", "chat"]
    argv = [sys.executable, "-m", *talk, "-p", "Where does Anna live?", "--temperature", "0", "--max-tokens", "30"]
    answer = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"^Anna lives in [A-Z][a-z]+\.$", answer.stdout.strip()), answer.stdout


@pytest.mark.slow
def test_the_default_model_answers_calculates_and_counts_letters(default_run):
    """What the main job promises, on questions that no stage was trained on."""
    folder, _ = default_run
    evals = json.loads((folder / "runs/toy/eval/summary.json").read_text())["evals"]
    base, sft, rl = (evals[stage] for stage in ("pretrain", "sft", "rl"))
    assert sft["ToyWorld-Choice"] >= 0.7
    assert sft["ToyWorld-Facts"] >= 0.4 and base["ToyWorld-Facts"] < sft["ToyWorld-Facts"] / 2
    assert sft["ToyWorld-Math"] >= 0.3 and base["ToyWorld-Math"] < 0.05
    assert rl["ToyWorld-Math"] > sft["ToyWorld-Math"]
    assert max(sft["SpellingBee"], rl["SpellingBee"]) >= 0.6 and base["SpellingBee"] < 0.1
    report = (folder / "runs/toy/report.md").read_text()
    assert all(f"| {name} " in report for name in ("ToyWorld-Choice", "ToyWorld-Facts", "ToyWorld-Math", "SpellingBee"))


@pytest.mark.slow
def test_the_default_model_writes_toy_world_english(default_run):
    """Every word that it samples is one that the toy world's text has, and it models that text well."""
    from pynanochat.data.sources import open_source

    folder, _ = default_run
    lines = [json.loads(line) for line in (folder / "runs/toy/pretrain/metrics.jsonl").read_text().splitlines()]
    bpb = [line["val_bpb"] for line in lines if "val_bpb" in line]
    assert bpb[-1] < bpb[0] / 3
    words = re.compile(r"[A-Za-z]+")
    known = set()
    for i, text in enumerate(open_source("toyworld").texts("train")):
        known.update(words.findall(text.lower()))
        if i == 5000:
            break
    samples = [line["samples"] for line in lines if "samples" in line][-1]
    written = [w for s in samples for w in words.findall(s["text"].lower())[:-1]]  # the last may be cut off
    assert len(written) > 40
    unknown = [w for w in written if w not in known]
    assert len(unknown) <= 0.05 * len(written), unknown
