"""Reinforcement learning as a stage: it learns what pays, resumes exactly, splits over ranks, and refuses nonsense."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from pynanochat import checkpoint
from pynanochat.engine import Engine
from pynanochat.errors import CheckpointError, DataError, Interrupted, UsageError
from pynanochat.model import GPT, GPTConfig, lora
from pynanochat.optim import MuonAdamW, Schedule, build_optimizer
from pynanochat.runtime import Ranks
from pynanochat.stages import pretrain, rl, rl_command, tokenizer
from pynanochat.stages.rl import (
    RLSettings,
    answers_of_rank,
    check_settings,
    check_task,
    generator,
    longest_prompt,
    total_steps,
    training_loop,
)
from pynanochat.tasks.base import Task
from pynanochat.tasks.humaneval import HumanEval
from pynanochat.tools import sandbox
from tests.engine.fakes import ByteTokenizer, small_model
from tests.stages.fakes import make_run

TOKENIZER = ByteTokenizer()
CONFIG = GPTConfig.from_depth(1, head_dim=16, vocab_size=265, sequence_len=32)


class Bandit(Task):
    """Whatever is asked, an answer with one of the `wanted` letters in it is right; at first about one in five is."""

    kind, name = "generate", "Bandit"

    def __init__(self, name="Bandit", first=0, size=40, wanted="abcdefghijkl"):
        self.name, self.first, self.size, self.wanted = name, first, size, wanted

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        question = {"role": "user", "content": f"q{self.first + index}"}
        return {"messages": [question, {"role": "assistant", "content": self.wanted}]}

    def grade(self, conversation, answer):
        return any(letter in answer for letter in self.wanted)


class Always(Bandit):
    def grade(self, conversation, answer):
        return True


SETTINGS = RLSettings(
    examples_per_step=4,
    samples=8,
    max_new_tokens=6,
    top_k=0,
    steps=6,
    eval_every=3,
    eval_examples=8,
    pass_k=4,
    sample_every=0,
    save_every=2,
)


def tiny_model(seed=1):
    """A model that finds some bytes likelier than others."""
    model = GPT(CONFIG, seed=seed)
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(3)))
        model.lm_head.weight.mul_(0.05)
    return model


def make_loop(folder, *, model=None, tasks=None, held_out=None, rows=8, ranks=None, lr=1.0, optimizer=None, **changes):
    wanted = dataclasses.replace(SETTINGS, **changes)
    model = model or tiny_model()
    return training_loop(
        model,
        TOKENIZER,
        tasks or [Bandit()],
        held_out or [Bandit(first=1000)],
        wanted,
        folder=Path(folder),
        optimizer=optimizer or build_optimizer(model, "2026", lr_multiplier=lr, weight_decay=0.0),
        schedule=Schedule(warmdown=1.0, scale=0.05, momentum_ramp=0),
        seed=0,
        rows=rows,
        ranks=ranks,
        reference=tiny_model() if wanted.kl else None,
        identity={"seed": 0},
        flops_per_token=1,
        peak_flops=1.0,
    )


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def steps(folder):
    return [line for line in lines(folder) if "loss" in line]


def facts(folder):
    """What a step's line says that does not depend on the clock."""
    clocked = ("tokens_per_second", "mfu", "seconds", "memory_bytes")
    return [{k: v for k, v in line.items() if k not in clocked} for line in lines(folder)]


def same_weights(a, b):
    one, other = (checkpoint.latest(Path(folder)).tensors("model") for folder in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# --- learning


def test_reward_and_held_out_pass_rate_rise_and_not_by_length(tmp_path):
    torch.set_num_threads(1)
    answers = {"examples_per_step": 8, "samples": 16, "steps": 25, "eval_every": 0, "max_new_tokens": 4}
    make_loop(tmp_path, rows=64, lr=8.0, **answers).run()
    first, *_, last = [line for line in lines(tmp_path) if "pass@1" in line]
    assert first["pass@1"] < 0.3 and last["pass@1"] > 0.8
    assert last["val_reward"] > 0.8 and last["pass@4"] >= last["pass@1"]
    assert last["val_answer_tokens"] <= 4  # the limit: an answer could not grow towards the reward
    rewards = [line["reward"] for line in steps(tmp_path)]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.5


def test_adapters_alone_learn_from_rewards(tmp_path):
    model = tiny_model()
    lora.adapt(model, rank=4, alpha=8.0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    group = {"kind": "adamw", "name": "lora", "params": list(lora.adapters(model).values()), "lr": 0.1}
    make_loop(tmp_path, model=model, optimizer=MuonAdamW([group]), steps=2, eval_every=0).run()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed <= lora.adapters(model).keys()


def test_an_answer_of_any_length_earns_alike_so_length_stays(tmp_path):
    """A reward that ignores the answer moves neither weights nor lengths."""

    class Blind(Bandit):
        def reward(self, conversation, answer):
            return 1.0

    model = tiny_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    make_loop(tmp_path, model=model, tasks=[Blind()], steps=3).run()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name
    assert [line["signal"] for line in steps(tmp_path)] == [0.0] * 3
    assert all(line["loss"] == 0.0 and line["gradient_norm"] == 0.0 for line in steps(tmp_path))


def test_steps_without_a_signal_do_not_move_weights_by_momentum(tmp_path):
    class Fickle(Bandit):
        """Pays by the answer first, later all alike."""

        paid = 0

        def reward(self, conversation, answer):
            self.paid += 1
            return float(self.grade(conversation, answer)) if self.paid <= 32 else 0.0

    model = tiny_model()
    loop = make_loop(tmp_path, model=model, tasks=[Fickle()], steps=4, top_k=0, eval_every=0)
    copied = lambda: {name: p.detach().clone() for name, p in model.named_parameters()}  # noqa: E731
    kept = [copied()]
    one_step = loop._one_step

    def watched():
        one_step()
        kept.append(copied())

    loop._one_step = watched
    loop.run()
    moved = [any(not torch.equal(a[k], b[k]) for k in a) for a, b in itertools.pairwise(kept)]
    assert moved == [True, False, False, False]


def test_metrics_name_every_task(tmp_path):
    tasks = [Bandit("Ones"), Always("Others")]
    make_loop(tmp_path, tasks=tasks, held_out=tasks, steps=1).run()
    [step] = steps(tmp_path)
    assert step["reward/Others"] == 1.0 and step["reward/Ones"] < 1.0
    assert step["reward"] == pytest.approx((step["reward/Ones"] + step["reward/Others"]) / 2)
    assert step["signal"] <= 0.5 and 1 <= step["answer_tokens"] <= 6 and 0 <= step["stopped"] <= 1
    evaluated = lines(tmp_path)[0]
    assert evaluated["pass@4/Others"] == 1.0
    assert evaluated["pass@1"] == pytest.approx((evaluated["pass@1/Ones"] + 1) / 2)
    assert [f"pass@{k}" in evaluated for k in range(1, 5)] == [True] * 4


def test_samples_show_questions_and_answers(tmp_path):
    make_loop(tmp_path, steps=1).run()
    [line] = [line for line in lines(tmp_path) if "samples" in line]
    assert len(line["samples"]) == 3 and all(s["prompt"].startswith("q10") for s in line["samples"])


# --- resuming


@pytest.mark.parametrize("options", [{}, {"uses": 2, "clip": 0.2}, {"kl": 0.1}], ids=["plain", "reuse", "kl"])
@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_resumed_is_bit_equal(tmp_path, stop, options):
    make_loop(tmp_path / "whole", **options).run()
    with pytest.raises(Interrupted):
        make_loop(tmp_path / "parts", stop_after=stop, **options).run()
    make_loop(tmp_path / "parts", **options).run()
    assert facts(tmp_path / "whole") == facts(tmp_path / "parts")
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_answers_used_again_are_the_same_answers(tmp_path):
    make_loop(tmp_path, uses=3, clip=0.2).run()
    rewards = [line["reward"] for line in steps(tmp_path)]
    assert len(set(rewards[:3])) == len(set(rewards[3:])) == 1


# --- micro-batches and ranks


@pytest.mark.parametrize("rows", [2, 32])
def test_micro_batches_change_nothing_but_rounding(tmp_path, rows):
    whole = steps_of(tmp_path / "eight", rows=8)
    parts = steps_of(tmp_path / "other", rows=rows)
    np.testing.assert_allclose([s["loss"] for s in parts], [s["loss"] for s in whole], rtol=1e-3, atol=1e-5)
    assert [s["reward"] for s in parts] == [s["reward"] for s in whole]


def steps_of(folder, **changes):
    make_loop(folder, steps=2, **changes).run()
    return steps(folder)


RANK = """
import sys, torch
torch.set_num_threads(1)
from pynanochat import runtime
from tests.stages.test_rl import make_loop
ranks = runtime.Ranks.from_environment()
runtime.init_distributed(ranks, torch.device("cpu"))
make_loop(sys.argv[1], ranks=ranks, steps=3).run()
"""


def test_two_gloo_ranks_equal_one_process(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(RANK))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path / "two")], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    make_loop(tmp_path / "one", steps=3).run()
    one, two = facts(tmp_path / "one"), facts(tmp_path / "two")
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for mine, theirs in zip(one, two, strict=True):
        for name, value in mine.items():
            if name in ("loss", "gradient_norm"):
                assert value == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
            else:
                assert value == theirs[name], name


# --- the generator


def test_the_generator_follows_the_weights():
    for dtype in (torch.float32, torch.bfloat16):
        model = small_model()
        model.compute_dtype = dtype
        generate = generator(model, TOKENIZER, rows=4)
        settings = {"samples": 2, "max_tokens": 8, "temperature": 0.0, "top_k": 0, "seed": [1]}
        before = [a.ids for a in generate([[256, 65, 66]], **settings)[0]]
        assert before == [a.ids for a in generate([[256, 65, 66]], **settings)[0]]
        assert all(p.dtype == torch.float32 for p in model.parameters())
        with torch.no_grad():
            model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
        assert [a.ids for a in generate([[256, 65, 66]], **settings)[0]] != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_generator_says_what_an_adapted_model_says(dtype):
    model, plain = small_model(), small_model()
    model.compute_dtype = plain.compute_dtype = dtype
    lora.adapt(model, rank=2, alpha=4.0)
    generate = generator(model, TOKENIZER, rows=4)
    settings = {"samples": 1, "max_tokens": 8, "temperature": 0.0, "top_k": 0, "seed": 1}
    answer = lambda generate: generate([[256, 65, 66]], **settings)[0][0].ids  # noqa: E731
    begun = answer(generate)
    assert begun == answer(generator(plain, TOKENIZER, rows=4))
    with torch.no_grad():
        for parameter in lora.adapters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    assert answer(generate) == answer(generator(lora.merged(model), TOKENIZER, rows=4)) != begun


def test_the_generator_in_half_precision_gives_the_tokens_of_the_model_in_training():
    model = small_model()
    model.compute_dtype = torch.bfloat16
    prompt = [256, *b"what is"]
    settings = {"samples": 1, "max_tokens": 6, "temperature": 0.0, "top_k": 0, "seed": 1}
    [[answer]] = generator(model, TOKENIZER, rows=4)([prompt], **settings)
    inputs = torch.tensor([[*prompt, *answer.ids]])
    with torch.inference_mode():
        logits = model(inputs)[0]
    for i, id in enumerate(answer.ids, start=len(prompt) - 1):
        assert logits[i].max() - logits[i, id] < 0.05  # a near tie may fall either way


# --- settings


def test_what_means_nothing_is_refused():
    wrong = {
        "samples": 1, "clip": 1.0, "uses": 2, "temperature": float("nan"), "lr_scale": 0.0, "kl": -1.0, "epochs": 0.0,
        "eval_examples": 0, "lora_rank": -1, "lora_lr": float("inf"),
    }  # fmt: skip
    check_settings(RLSettings())
    for name, value in wrong.items():
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} {value}"):
            check_settings(dataclasses.replace(RLSettings(), **{name: value}))


def test_rows_divide_the_answers_of_each_rank():
    wanted = RLSettings(examples_per_step=6, samples=16)
    assert answers_of_rank(wanted, 1) == 96 and answers_of_rank(wanted, 2) == 48
    with pytest.raises(UsageError, match="multiple of 4"):
        answers_of_rank(wanted, 4)
    with pytest.raises(UsageError, match="--device-rows 7"):
        answers_of_rank(dataclasses.replace(wanted, device_rows=7), 1)


def test_programs_of_the_model_need_isolation(monkeypatch):
    class Programs(Bandit):
        name, runs_code = "Programs", True

    task = Programs("Programs")
    monkeypatch.setattr(sandbox, "isolated", lambda: True)
    check_task(task)
    monkeypatch.setattr(sandbox, "isolated", lambda: False)
    monkeypatch.setattr(sandbox, "active_tier", lambda: "rlimits only")
    with pytest.raises(UsageError, match="Programs.*rlimits only"):
        check_task(task)
    check_task(Bandit())
    assert HumanEval.runs_code


def test_what_cannot_pay_is_refused():
    class Choice(Bandit):
        kind = "choice"

    with pytest.raises(UsageError, match="Bandit"):
        check_task(Choice())


def test_an_epoch_asks_the_smallest_task_once():
    assert total_steps(RLSettings(), 7473) == 467
    assert total_steps(RLSettings(steps=5), 7473) == 5
    assert total_steps(RLSettings(uses=2, clip=0.2), 160) == 20
    assert (longest_prompt(2048, 256), longest_prompt(256, 256)) == (1792, 128)


def test_ranks_deal_every_question_once(tmp_path):
    loops = [make_loop(tmp_path / str(r), ranks=Ranks(r, r, 2), rows=16) for r in range(2)]
    assert [list(loop.streams) for loop in loops] == [[0], [1]]


# --- the stage of a run

RL = {"examples_per_step": 2, "samples": 4, "max_new_tokens": 12, "steps": 2, "eval_every": 1, "eval_examples": 3}
RL |= {"pass_k": 2, "sample_every": 0, "save_every": 1, "tasks": "ToyWorld-Arithmetic,SpellingBee"}


def rl_run(folder, **changes):
    return make_run(folder, **{f"rl_{k}": v for k, v in (RL | changes).items()}, sequence_len=128)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """A run whose base model stands for the finetuned one."""
    folder = tmp_path_factory.mktemp("finetuned") / "run"
    run = rl_run(folder)
    run.save_settings()
    for stage in (tokenizer, pretrain):
        run.carry_out(stage)
    shutil.copytree(folder / "pretrain", folder / "sft")
    return folder


def test_the_stage_learns_from_the_toy_world_and_the_engine_finds_it(finetuned, tmp_path):
    folder = shutil.copytree(finetuned, tmp_path / "run")
    summary = rl_run(folder).carry_out(rl)
    assert summary["steps"] == 2 and summary["tasks"] == ["ToyWorld-Arithmetic", "SpellingBee"]
    assert "pass@2/SpellingBee" in summary and 1 <= summary["val_answer_tokens"] <= 12
    assert Engine.load(folder).stage == "rl"
    state = checkpoint.latest(folder / "rl").state("state")
    assert state["identity"]["begins_from"] == "sft" and state["identity"]["tasks_hash"]
    assert rl_run(folder).carry_out(rl) == summary
    with pytest.raises(UsageError, match="temperature 1.0 -> 0.5"):
        rl_run(folder, temperature=0.5).carry_out(rl)


def test_adapters_learn_and_resume_alone(finetuned, tmp_path):
    folder = shutil.copytree(finetuned, tmp_path / "run")
    adapted = {"lora_rank": 2, "lora_lr": 0.05, "samples": 16, "tasks": "SpellingBee"}
    with pytest.raises(Interrupted):
        rl_run(folder, stop_after=1, **adapted).carry_out(rl)
    rl_run(folder, **adapted).carry_out(rl)
    saved = checkpoint.latest(folder / "rl")
    assert all(name.rpartition(".")[2] in ("a", "b") for name in saved.tensors("adapters"))
    before, after = checkpoint.latest(folder / "sft").tensors("model"), saved.tensors("model")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before if not k.startswith("transformer.h."))
    whole = shutil.copytree(finetuned, tmp_path / "whole")
    rl_run(whole, **adapted).carry_out(rl)
    assert same_weights(folder / "rl", whole / "rl")


def test_the_command_goes_on_where_it_was_stopped(finetuned, tmp_path, capsys):
    folder = shutil.copytree(finetuned, tmp_path / "run")
    given = [text for k, v in RL.items() for text in (f"--{k.replace('_', '-')}", str(v))]
    with pytest.raises(Interrupted):
        rl_command.main(["--run", str(folder), *given, "--stop-after", "1"])
    rl_command.main(["--run", str(folder), "--stop-after", "0"])
    assert (folder / "rl" / "done.json").exists()
    rl_command.main(["--run", str(folder), "--dry-run"])
    assert "2 steps of 2 questions x 4 answers" in capsys.readouterr().out


def test_without_a_finetuned_model_it_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="pynanochat sft"):
        rl_command.main(["--run", str(tmp_path / "none"), "--preset", "toy"])
    assert not (tmp_path / "none" / "rl").exists()


def test_data_without_a_reward_task_say_so(finetuned, tmp_path):
    (tmp_path / "pretrain").mkdir()
    for name in ("a.txt", "val.txt"):
        (tmp_path / "pretrain" / name).write_text("7 8 9 10 11\n" * 50)
    assert rl.nothing_to_learn(rl_run(finetuned)) == ""
    assert rl.nothing_to_learn(rl_run(finetuned, tasks="")) == ""
    run = make_run(tmp_path / "run", data=str(tmp_path))
    assert "words" in rl.nothing_to_learn(run)
    with pytest.raises(DataError):
        rl.check_plan(run)


def test_no_training_question_is_held_out(finetuned):
    """In text, over the first questions of each reward task; "test" is the part that is kept apart."""
    run = rl_run(finetuned, tasks="")
    for trained, held_out in zip(rl.reward_tasks(run), rl.reward_tasks(run, rl.HELD_OUT), strict=True):
        assert len(held_out) >= 100 and not questions_in(trained, 1500) & questions_in(held_out, 300)


def questions_in(task, most):
    return {task[i]["messages"][0]["content"] for i in range(min(len(task), most))}
