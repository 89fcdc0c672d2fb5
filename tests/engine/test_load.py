"""A run on disk, through Engine.load and the command, with the real tokenizer."""

import io
import subprocess
import sys

import pytest
import torch

from pynanochat import chat
from pynanochat.engine import Engine
from pynanochat.errors import CheckpointError, UsageError
from pynanochat.tokenizer import Tokenizer
from tests.engine.fakes import save_run, small_model

TEXT = "Anna lives in a red house by the sea. Ben sells bread for 3 coins. Caf\u00e9 \u4e16\u754c \U0001f680. "


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs/base with a pretrained model, runs/full with an SFT model too; the tokenizer's vocabulary is 300."""
    root = tmp_path_factory.mktemp("work")
    tokenizer = Tokenizer.train([TEXT * 50], vocab_size=300)
    for name, stages in (("base", ["pretrain"]), ("full", ["pretrain", "sft"])):
        save_run(root / "runs" / name, tokenizer, stages)
    return root / "runs"


def test_the_public_face(runs):
    import pynanochat

    engine = pynanochat.Engine.load(runs / "full")
    pieces = list(engine.chat([{"role": "user", "content": "hi"}], temperature=0.8, max_tokens=9, seed=1))
    assert all(isinstance(piece, str) for piece in pieces)


def test_the_newest_stage_is_loaded(runs):
    assert Engine.load(runs / "base").stage == "pretrain"
    full = Engine.load(runs / "full")
    assert full.stage == "sft" and Engine.load(runs / "full", "pretrain").stage == "pretrain"
    assert torch.equal(full.model.lm_head.weight, small_model(1, vocab_size=len(full.tokenizer)).lm_head.weight)
    with pytest.raises(CheckpointError, match="rl"):
        Engine.load(runs / "full", "rl")
    with pytest.raises(CheckpointError):
        Engine.load(runs / "nothing")


def test_text_in_and_out(runs):
    engine = Engine.load(runs / "base")
    prompt = "Caf\u00e9 \u4e16"
    text = engine.complete(prompt, max_tokens=40, temperature=0, tools=False, stop_tokens=())
    ids = [engine.tokenizer.bos_id, *engine.tokenizer.encode(prompt)]
    expected = list(ids)
    with torch.inference_mode():
        for _ in range(40):
            expected.append(int(engine.model(torch.tensor([expected]))[0, -1].argmax()))
    special = set(engine.tokenizer.special_tokens.values())
    said = [i for i in expected[len(ids) :] if i not in special]
    assert len(said) == 40  # or choose another prompt: this model says no special token here
    assert text == engine.tokenizer.decode(said)
    assert engine.complete(prompt, max_tokens=20, seed=1) == engine.complete(prompt, max_tokens=20, seed=1)


def test_bfloat16_keeps_the_rotary_tables(runs):
    engine = Engine.load(runs / "full", compute_dtype=torch.bfloat16)
    assert engine.model.lm_head.weight.dtype == torch.bfloat16 and engine.model.cos.dtype == torch.float32
    exact = Engine.load(runs / "full")
    ids = torch.arange(1, 60)[None]
    with torch.inference_mode():
        half, whole = engine.model(ids), exact.model(ids)
    assert (half - whole).square().mean().sqrt() < 0.05 * whole.std()
    assert len(list(engine.generate([1, 2], max_tokens=5, seed=0, stop_tokens=()))) == 5


def test_the_command(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs.parent)
    flags = ["-p", "Anna", "--max-tokens", "12", "--seed", "3"]
    chat.main(["full", *flags])
    first = capsys.readouterr()
    chat.main(["--run", str(runs / "full"), *flags])
    assert capsys.readouterr().out == first.out != "\n"
    chat.main(["full", *flags, "--stage", "pretrain"])
    assert "only a base model" in capsys.readouterr().err
    with pytest.raises(UsageError, match="the last message takes"):
        chat.main(["full", "-p", "word " * 500])
    with pytest.raises(UsageError, match="temperature=-1"):
        chat.main(["full", "-p", "hi", "--temperature", "-1"])


def test_a_prompt_from_standard_input(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs.parent)
    flags = ["full", "--max-tokens", "12", "--seed", "3"]
    chat.main([*flags, "-p", "Anna lives"])
    wanted = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("Anna lives"))
    chat.main([*flags, "-p", "-"])
    assert capsys.readouterr().out == wanted


def test_a_conversation_through_a_pipe(runs):
    command = [sys.executable, "-m", "pynanochat", "chat", "full", "--max-tokens", "8", "--temperature", "0"]
    result = subprocess.run(command, input="hi\nagain\n", capture_output=True, text=True, cwd=runs.parent, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "full \u00b7 sft" in result.stderr and result.stdout.count("\n") >= 2
