"""Tasks and mixtures from a server that imitates the Hub."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from pynanochat.errors import DataError
from pynanochat.tasks import TaskData, available, open_task
from pynanochat.tasks import mixtures as m
from pynanochat.tasks.hygiene import leaks

from .small import HUMANEVAL_ROWS, PROSE, arc_rows, chats, gsm8k_rows, mmlu_rows, write_parquet

spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).parents[1] / "data" / "hub_server.py")
hub_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub_server)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")

    def parquet(rows):
        write_parquet(folder / "made.parquet", rows)
        return (folder / "made.parquet").read_bytes()

    part = "00000-of-00001.parquet"
    stray = gsm8k_rows("test", 1)[0]["question"]
    talk = [*chats("Oslo", 30), {"messages": [{"role": "user", "content": stray}, chats("Oslo", 1)[0]["messages"][1]]}]
    arc = {
        f"{name}/{split}-{part}": parquet(arc_rows(f"{name} {split}", n))
        for name in ("ARC-Easy", "ARC-Challenge")
        for split, n in (("train", 6), ("validation", 2), ("test", 4))
    }
    mmlu = {f"all/{split}-{part}": parquet(mmlu_rows(split, 7)) for split in ("auxiliary_train", "validation", "test")}
    repositories = {
        "allenai/ai2_arc": arc,
        "cais/mmlu": mmlu | {f"astronomy/test-{part}": parquet(mmlu_rows("astronomy", 3)), "README.md": b"x"},
        "openai/gsm8k": {
            f"main/train-{part}": parquet(gsm8k_rows("train", 9)),
            f"main/test-{part}": parquet(gsm8k_rows("test", 5)),
            f"socratic/train-{part}": parquet(gsm8k_rows("socratic", 5)),
        },
        "openai/openai_humaneval": {f"openai_humaneval/test-{part}": parquet(HUMANEVAL_ROWS)},
        "HuggingFaceTB/smol-smoltalk": {
            "data/train-00000-of-00002.parquet": parquet(talk[:20]),
            "data/train-00001-of-00002.parquet": parquet(talk[20:]),
            f"data/test-{part}": parquet(chats("Bergen", 5)),
        },
        "karpathy/climbmix-400b-shuffle": {f"shard_{i:05d}.parquet": parquet([{"text": PROSE}] * 9) for i in (0, 6542)},
    }
    server = hub_server.HubServer(repositories)
    yield server
    server.close()


@pytest.fixture
def where(server, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return TaskData("hub", cache_dir=str(tmp_path_factory.getbasetemp() / "hub-cache"))


def names(mixture):
    """How many conversations of each kind, by what only that kind says."""
    marks = {
        "Oslo": "SmolTalk", "nuts": "GSM8K", "garden number": "MMLU", "in ARC-Easy": "ARC-Easy", "letters": "Simple",
        "in ARC-Challenge": "ARC-Challenge", "spell": "Simple", "Bergen": "SmolTalk",
    }  # fmt: skip

    def kind(conversation):
        if "key" in conversation:
            return conversation["key"].split()[0]
        text = conversation["messages"][0]["content"]
        return next((name for mark, name in marks.items() if mark in text), "Identity")

    return Counter(map(kind, mixture))


def test_every_task_opens(where):
    sizes = {name: len(open_task(name, "test", where)) for name in available(where)}
    assert sizes == {
        "ARC-Easy": 4, "ARC-Challenge": 4, "MMLU": 7, "GSM8K": 5, "HumanEval": 2, "SpellingBee": 256,
        "SimpleSpelling": 256,
    }  # fmt: skip
    assert open_task("ARC-Challenge", "test", where)[1]["messages"][1]["content"] == "D"
    assert "auxiliary_train" in open_task("MMLU", "train", where)[0]["question"]
    talk = open_task("SmolTalk", "train", where)
    assert len(talk) == 31 and [talk[i] for i in (0, 25)] == [chats("Oslo", 30)[i] for i in (0, 25)]
    task = open_task("HumanEval", "test", where)
    assert task.grade(task[0], task[0]["messages"][-1]["content"])


def test_the_recipe_of_midtraining_sft_and_both_in_one(where, monkeypatch):
    sizes = {"SimpleSpelling": 200, "SpellingBee": 80}
    monkeypatch.setattr("pynanochat.tasks.spellingbee.SIZES", sizes)
    monkeypatch.setattr(m, "SFT_SMOLTALK", 10)
    monkeypatch.setattr(m, "SFT_SPELLING", 3)
    both = {"SmolTalk": 30, "Identity": 2000, "spell": 200, "count": 80}
    assert names(m.training("midtrain", where)) == both | {"MMLU": 7, "GSM8K": 9}
    assert names(m.training("sft", where, merged=True)) == both | {"MMLU": 21, "GSM8K": 36}
    short = names(m.training("sft", where))
    assert short.pop("SmolTalk") in (9, 10)  # the conversation that asks a test question may be among the ten
    assert short == {"ARC-Easy": 6, "ARC-Challenge": 6, "GSM8K": 9, "Identity": 1000, "spell": 3, "count": 3}


def test_the_sizes_are_those_of_the_recipe(where):
    parts = {getattr(p, "name", ""): (len(p), copies) for p, copies in m.training_parts("midtrain", where, False)}
    assert parts["SimpleSpelling"] == (200_000, 1) and parts["SpellingBee"] == (80_000, 1)
    assert (m.SFT_SMOLTALK, m.SFT_SPELLING, m.VALIDATION_MMLU) == (10_000, 300, 5200)


def test_validation_and_rewards(where):
    assert names(m.validation("midtrain", where)) == {"SmolTalk": 5, "MMLU": 7, "GSM8K": 5}
    assert [(task.name, len(task)) for task in m.reward_tasks(where)] == [("GSM8K", 9)]


def test_a_conversation_that_asks_a_test_question_is_left_out(where, monkeypatch):
    monkeypatch.setattr("pynanochat.tasks.spellingbee.SIZES", {"SimpleSpelling": 200, "SpellingBee": 80})
    tests = [open_task(name, "test", where) for name in available(where)]
    raw = [c for part, _ in m.training_parts("midtrain", where, False) for c in (part[i] for i in range(len(part)))]
    assert [task for task, _ in leaks(raw, tests)] == ["GSM8K"]
    for stage, merged in (("midtrain", False), ("sft", False), ("sft", True)):
        assert leaks(m.training(stage, where, merged), tests) == []


def test_what_was_fetched_is_not_asked_for_again(where, server):
    hashes = [open_task(name, "train", where).hash() for name in ("GSM8K", "SmolTalk")]
    count = len(server.requests)
    assert [open_task(name, "train", where).hash() for name in ("GSM8K", "SmolTalk")] == hashes
    assert len(server.requests) == count


def test_a_repository_without_the_files_is_a_data_error(where, server, monkeypatch):
    from pynanochat.data.hub import fetch_files

    with pytest.raises(DataError, match=r"openai/gsm8k: no parquet files moon/\*"):
        fetch_files("openai/gsm8k", ["moon/"], cache_dir=where.cache_dir)
    with pytest.raises(DataError, match="someone/nothing: no such public dataset"):
        fetch_files("someone/nothing", ["data/"], cache_dir=where.cache_dir)


def test_a_damaged_file_is_a_data_error(where, tmp_path):
    from pynanochat.tasks.rows import ParquetRows

    write_parquet(tmp_path / "a.parquet", gsm8k_rows("a", 5))
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="a.parquet: damaged or cut off"):
        ParquetRows([tmp_path / "a.parquet"])
    rows = ParquetRows([Path(where.cache_dir) / "hub/openai--gsm8k/main/test-00000-of-00001.parquet"])
    with pytest.raises(IndexError):
        rows[len(rows)]
    assert rows[4] == gsm8k_rows("test", 5)[4]
