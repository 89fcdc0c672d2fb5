"""The command line: one line for an error, exit codes, no traceback."""

import subprocess
import sys

import pytest

from pynanochat import cli


def run(*argv):
    return subprocess.run([sys.executable, "-m", "pynanochat", *argv], capture_output=True, text=True)


def test_usage_lists_every_command():
    done = run()
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fly"], ["'fly'", "speedrun"]),
        (["speedrun", "--preset", "huge"], ["--preset huge", "toy"]),
        (["speedrun", "--preset", "toy", "--depth", "0"], ["--depth 0", "at least 1"]),
        (["speedrun", "--preset", "toy", "--vocab-size", "100"], ["100", "265"]),
        (["speedrun", "--preset", "toy", "--batch-tokens", "1000"], ["--batch-tokens 1000", "multiple of 256"]),
        (["speedrun", "--preset", "toy", "--device-rows", "7"], ["--device-rows 7", "divisor of 16"]),
        (["speedrun", "--preset", "toy", "--data", "no/such/folder"], ["no/such/folder"]),
        (["speedrun", "--preset", "toy", "--device", "tpu"], ["--device tpu", "cpu"]),
        (["speedrun", "--preset", "toy", "--dtype", "fp8"], ["--dtype fp8", "bf16"]),
        (["speedrun", "--preset", "toy", "--lr-scale", "nan"], ["--lr-scale nan", "finite"]),
        (["speedrun", "--preset", "toy", "--kv-heads", "3"], ["--kv-heads 3", "4 query heads"]),
        (["speedrun", "--preset", "toy", "--sequence-len", "0"], ["--sequence-len 0"]),
        (["speedrun", "--preset", "toy", "--processes", "3"], ["3 ranks", "multiple of 768"]),
        (["speedrun", "--preset", "toy", "--run", "/proc/none"], ["/proc/none", "--run"]),
        (["speedrun", "--preset", "toy", "--arch", "1999"], ["1999", "2026"]),
        (["speedrun", "--preset", "toy", "--processes", "-1"], ["--processes -1"]),
        (["pretrain", "--preset", "toy", "--run", "nothing-here"], ["no tokenizer", "speedrun"]),
    ],
)
def test_bad_flags_are_one_line_that_names_value_and_remedy(argv, words, tmp_path):
    argv = argv if "--run" in argv or argv[0] == "fly" else [*argv, "--run", str(tmp_path / "run")]
    done = run(*argv)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "run" / "pretrain" / "checkpoints").exists()
    assert not (tmp_path / "run" / "tokenizer").exists() or "--vocab-size" in argv


def test_dry_run_allocates_nothing(tmp_path):
    done = run("speedrun", "--preset", "tier1000", "--device", "cpu", "--dry-run", "--run", str(tmp_path / "r"))
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout and "FLOPs" in done.stdout and "$" in done.stdout
    assert not (tmp_path / "r").exists()
