"""CORE against a plain reference on generated bundles, with rigged models, centring by hand, and damaged bundles."""

import csv
import gzip
import json
import random

import pytest
import torch

from pynanochat.engine import Engine
from pynanochat.errors import DataError
from pynanochat.evals.core import answer, core, evaluate, open_bundle
from pynanochat.evals.core_tasks import FIELDS, CoreTask
from pynanochat.evals.score import make_score
from tests.engine.fakes import ByteTokenizer, small_model
from tests.evals.core_reference import predict, texts_of
from tests.evals.fakes import Rigged, words


def some_rows(kind, count, seed=0, most=8):
    """Rows of odd lengths, with spaces at the ends of some contexts, and options with common beginnings."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        text, end = words(rng, most) + rng.choice(["", " ", "\n"]), words(rng, 3)
        if kind == "multiple_choice":
            start = rng.choice(["", end + " "])
            choices = [start + words(rng, 4) + str(n) for n in range(rng.choice([2, 4, 4, 5]))]
            rows.append({"query": text, "choices": choices, "gold": rng.randrange(len(choices))})
        elif kind == "schema":
            contexts = [text + words(rng, 3) + letter for letter in rng.sample("pqrstuv", 2)]
            rows.append({"context_options": contexts, "continuation": end, "gold": rng.randrange(2)})
        else:
            rows.append({"context": text, "continuation": end[: rng.choice([1, 1, 2, 9])].strip() or "a"})
    return rows


def write_bundle(folder, specs):
    """specs: [(label, kind, shots, delimiter, percent, rows)]."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for label, kind, shots, gap, percent, rows in specs:
        with gzip.open(folder / f"{label}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        tasks.append(
            {"label": label, "file": f"{label}.jsonl.gz", "icl_task_type": kind, "num_fewshot": shots,
             "continuation_delimiter": gap, "random_baseline": percent}
        )  # fmt: skip
    (folder / "core_tasks.json").write_text(json.dumps({"tasks": tasks}))
    return open_bundle(folder)


def one_task(folder, kind, rows, shots=0, gap=" ", percent=25.0):
    return write_bundle(folder, [("one", kind, shots, gap, percent, rows)])[0]


def shuffled(rows):
    rows = list(rows)
    random.Random(1337).shuffle(rows)
    return rows


def predictions(model, task, budget):
    items = [task.item(i, ByteTokenizer(), model.config.sequence_len) for i in range(len(task.rows))]
    answers = answer(model, items, task.kind, budget)
    return [a.right if task.kind == "language_modeling" else a.row for a in answers]


@torch.inference_mode()
@pytest.mark.parametrize("arch", ["2025", "2026"])
@pytest.mark.parametrize("context", [96, 400])  # most prompts are longer than the first, some than the second
@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("shots", [0, 4])
def test_predictions_are_the_references(tmp_path, kind, shots, context, arch):
    rows = some_rows(kind, 24)
    task = one_task(tmp_path, kind, rows, shots, "\nAnswer: ")
    model, data = small_model(5, arch, sequence_len=context), shuffled(rows)
    expected = [predict(model, ByteTokenizer(), kind, data, i, shots, "\nAnswer: ") for i in range(len(data))]
    for budget in (1, 700, 100_000):
        assert predictions(model, task, budget) == expected
    if kind != "language_modeling":
        assert len(set(expected)) > 1
        score = evaluate(model, ByteTokenizer(), task)
        assert score.correct == sum(a == row["gold"] for a, row in zip(expected, data, strict=True))
        assert score.cut == sum(
            max(len(t.encode()) for t in texts_of(kind, data, i, shots, "\nAnswer: ")) > context
            for i in range(len(data))
        )


@torch.inference_mode()
@pytest.mark.parametrize("context", [60, 400])
def test_greedy_continuations_are_matched_exactly(tmp_path, context):
    """A random model matches nothing; so half of the continuations are its own, some of them spoiled at one place."""
    model, rng = small_model(2, sequence_len=context), random.Random(0)
    engine, rows = Engine(model, ByteTokenizer()), []
    model.lm_head.weight[128:] = model.lm_head.weight[5]  # letters of ASCII alone are likely
    model.lm_head.weight[:33] = 0
    for n in range(30):
        text, length = words(rng, 5), rng.randint(1, 7)
        text = text[: context - 12]
        ids = [256, *text.encode()]
        own = engine.generate_batch([ids], max_tokens=length, temperature=0, tools=False, stop_tokens=())[0][0]
        said = bytes(min(i, 127) for i in own.ids).decode()
        if n % 3 == 0:
            at = rng.randrange(len(said))
            said = said[:at] + rng.choice("xyz") + said[at + 1 :]
        rows.append({"context": text, "continuation": said})
    task = one_task(tmp_path, "language_modeling", rows, gap="")
    data = shuffled(rows)
    expected = [predict(model, ByteTokenizer(), "language_modeling", data, i, 0, "") for i in range(30)]
    assert 3 < sum(expected) < 27
    for budget in (1, 300, 100_000):
        assert predictions(model, task, budget) == expected


@pytest.mark.parametrize("kind", FIELDS)
def test_a_model_that_knows_what_comes_next_is_always_right(tmp_path, kind):
    rows = some_rows(kind, 12, most=3)
    task = one_task(tmp_path, kind, rows, shots=2, percent=25.0)
    rights = []
    for i in range(12):
        prompts = task.prompts(i)
        rights.append([256, *prompts[1 if kind == "language_modeling" else task.rows[i]["gold"]].encode()])

    def knows(ids):
        """All of the probability on the next byte of the right text, where the text so far is one's beginning."""
        logits = torch.zeros(265)
        for right in rights:
            if right[: len(ids)] == ids and len(right) > len(ids):
                logits[right[len(ids)]] = 90.0
                break
        return logits

    score = evaluate(Rigged(knows, context=300), ByteTokenizer(), task)
    assert (score.correct, score.total, score.score, score.centred) == (12, 12, 1.0, 1.0)
    assert all(example["correct"] for example in score.examples)
    if kind == "language_modeling":
        assert all(example["answer"].strip() == example["reference"] for example in score.examples)


def test_shots_never_hold_the_item_and_depend_on_its_place_alone(tmp_path):
    rows = [{"query": f"q{i}", "choices": ["a", "b"], "gold": 0} for i in range(15)]
    task = one_task(tmp_path, "multiple_choice", rows, shots=10)
    for i, row in enumerate(task.rows):
        shots = task.shots_of(i)
        assert row not in shots and len({s["query"] for s in shots}) == 10
        numbers = random.Random(1234 + i).sample([j for j in range(15) if j != i], 10)
        assert shots == [task.rows[j] for j in numbers]
    assert task.rows == shuffled(rows) != rows


def test_the_prompt_letter_by_letter(tmp_path):
    rows = [
        {"query": "Q: is it?\n", "choices": ["no", "yes"], "gold": 1},
        {"query": "Q: was it?\n", "choices": ["maybe", "never"], "gold": 0},
    ]
    task = one_task(tmp_path / "a", "multiple_choice", rows, shots=1, gap="\nAnswer: ")
    i = task.rows.index(rows[0])
    shot = "Q: was it?\n\nAnswer: maybe\n\n"
    assert task.prompts(i) == [shot + "Q: is it?\n\nAnswer: no", shot + "Q: is it?\n\nAnswer: yes"]
    rows = [{"context": " one two \n", "continuation": "three"}, {"context": "four", "continuation": "five"}]
    task = one_task(tmp_path / "b", "language_modeling", rows, shots=1)
    assert task.prompts(task.rows.index(rows[0])) == ["four five\n\none two", "four five\n\none two three"]
    rows = [
        {"context_options": ["He", "She"], "continuation": "ran.", "gold": 1},
        {"context_options": ["It", "They"], "continuation": "sat.", "gold": 0},
    ]
    task = one_task(tmp_path / "c", "schema", rows, shots=1)
    assert task.prompts(task.rows.index(rows[0])) == ["It sat.\n\nHe ran.", "It sat.\n\nShe ran."]


def test_options_that_begin_or_equal_each_other_are_no_crash(tmp_path):
    rows = [
        {"query": "x" * 50, "choices": ["a", "a b", "a"], "gold": 2},
        {"query": "y", "choices": ["", ""], "gold": 0},
        {"query": "", "choices": ["w" * 200, "w" * 199 + "v"], "gold": 0},  # longer than the context by themselves
    ]
    score = evaluate(small_model(), ByteTokenizer(), one_task(tmp_path / "a", "multiple_choice", rows))
    assert score.total == 3 and score.cut == 1
    rows = [{"context_options": ["same", "same"], "continuation": "end", "gold": 0}] * 2
    assert evaluate(small_model(), ByteTokenizer(), one_task(tmp_path / "b", "schema", rows)).score in (0.0, 1.0)


def test_max_examples_takes_the_first_and_keeps_their_prompts(tmp_path):
    rows = some_rows("multiple_choice", 40)
    task = one_task(tmp_path, "multiple_choice", rows, shots=10)
    few = evaluate(small_model(), ByteTokenizer(), task, max_examples=6)
    assert few.total == 6 and len(few.examples) == 6
    expected = predictions(small_model(), task, 1000)[:6]
    assert few.correct == sum(a == row["gold"] for a, row in zip(expected, task.rows, strict=False))


def test_core_is_the_mean_of_22_centred_scores():
    scores = [make_score(f"t{i}", 60, 100, 0.2) for i in range(11)] + [
        make_score(f"u{i}", 0, 10, 0.0) for i in range(11)
    ]
    assert core(scores).task == "CORE"
    assert core(scores).score == pytest.approx(0.25)  # (0.6 - 0.2) / 0.8 = 0.5 for half of them
    assert core(scores[:3]).task == "CORE (3 of 22 tasks)"


def test_the_familys_bundle_gives_the_same(tmp_path):
    rows = some_rows("multiple_choice", 9)
    own = one_task(tmp_path / "own", "multiple_choice", rows, shots=3, gap="\nAnswer: ", percent=40.3)
    folder = tmp_path / "eval_bundle"
    (folder / "eval_data/commonsense").mkdir(parents=True)
    (folder / "eval_data/commonsense/one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "core.yaml").write_text(
        "icl_tasks:\n-\n  label: one\n  dataset_uri: commonsense/one.jsonl\n  num_fewshot: [3]\n"
        '  icl_task_type: multiple_choice\n  continuation_delimiter: "\\nAnswer: "\n  has_categories: false\n'
    )
    with open(folder / "eval_meta_data.csv", "w", newline="") as file:
        csv.writer(file).writerows([["Eval Task", "Task Category", "Random baseline"], ["one", "x", "40.3"]])
    task = open_bundle(folder)[0]
    assert isinstance(task, CoreTask) and task.baseline == pytest.approx(0.403) == own.baseline
    assert [task.prompts(i) for i in range(9)] == [own.prompts(i) for i in range(9)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", r"one\.jsonl\.gz: cannot be read"),
        (gzip.compress(b""), "no rows"),
        (gzip.compress(b'{"query": "x"}\n'), "line 1: a row must have query, choices, gold"),
        (gzip.compress(b'{"query": "x", "choices": ["a"], "gold": 1}\n'), "line 1"),
        (gzip.compress(b'\n{"query": \n'), "cannot be read"),
        (gzip.compress(b'{"query": "x", "choices": ["a"], "gold": 0}\n')[:-9], "cannot be read"),
        (gzip.compress(b"")[:10] + b"\xff" * 9, "cannot be read"),
        (gzip.compress(b"[" * 200_000), "cannot be read"),
    ],
)
def test_damaged_rows_are_named(tmp_path, content, message):
    task = one_task(tmp_path, "multiple_choice", some_rows("multiple_choice", 2))
    (tmp_path / "one.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        len(task.rows)


def test_a_context_that_is_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match="line 1: a row must have context, continuation"):
        len(one_task(tmp_path, "language_modeling", [{"context": 3, "continuation": "x"}]).rows)


def test_damaged_tables_are_named(tmp_path):
    with pytest.raises(DataError, match="no CORE bundle"):
        open_bundle(tmp_path)
    for content in ("{", "[]", '{"tasks": [{"label": "x"}]}'):
        (tmp_path / "core_tasks.json").write_text(content)
        with pytest.raises(DataError, match=r"core_tasks\.json: damaged"):
            open_bundle(tmp_path)
    with pytest.raises(DataError, match="type 'essay'"):
        write_bundle(tmp_path, [("one", "essay", 0, " ", 0, [])])
