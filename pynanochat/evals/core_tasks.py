"""The CORE bundle: 22 tasks of three types, their rows, and the prompts that are made of them.

    tasks = open_bundle(Path("data/core"))      a folder with core_tasks.json, or the family's eval_bundle (core.yaml)
    item = tasks[0].item(17, tokenizer, context=2048)

Row types: multiple_choice {"query", "choices", "gold"}; schema {"context_options", "continuation", "gold"};
language_modeling {"context", "continuation"}. A prompt is the shots and the item, joined by blank lines; in each the
task's delimiter stands between question and answer.
"""

import csv
import functools
import gzip
import json
import random
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pynanochat.errors import DataError

COUNT = 22
ORDER_SEED = 1337
SHOTS_SEED = 1234
FIELDS = {
    "multiple_choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language_modeling": ("context", "continuation"),
}


@dataclass
class Item:
    """One question as rows of tokens; of row r the model is asked for rows[r][starts[r]:]."""

    rows: list[np.ndarray]
    """int32; one for each option, or one."""
    starts: list[int]
    gold: int
    """The right row; 0 for language modelling."""
    cut: int
    """1 where the beginning had to go."""


@dataclass(frozen=True)
class CoreTask:
    """One of the tasks; its rows are read when they are first asked for."""

    label: str
    kind: str
    """multiple_choice, schema or language_modeling."""
    shots: int
    delimiter: str
    baseline: float
    """Fraction right by guessing."""
    path: Path

    @functools.cached_property
    def rows(self) -> list[dict]:
        """All rows in the order of evaluation. Raises DataError for a file that is missing or of another form."""
        rows = read_rows(self.path, FIELDS[self.kind])
        random.Random(ORDER_SEED).shuffle(rows)
        return rows

    def shots_of(self, index: int) -> list[dict]:
        """The examples that stand before row `index`: drawn for it, itself never among them."""
        others = [i for i in range(len(self.rows)) if i != index]
        drawn = random.Random(SHOTS_SEED + index).sample(others, min(self.shots, len(others)))
        return [self.rows[i] for i in drawn]

    def item(self, index: int, tokenizer, context: int) -> Item:
        """Row `index` as tokens, cut on the left to what a model of `context` tokens can be asked."""
        rows = [np.array([tokenizer.bos_id, *tokenizer.encode(p)], np.int32) for p in self.prompts(index)]
        if self.kind == "schema":
            after = common([row[::-1] for row in rows])
            starts = [len(row) - after for row in rows]
        else:
            starts = [common(rows)] * len(rows)
        if self.kind == "language_modeling":
            rows, starts = rows[1:], starts[1:]
        # Where one option is the beginning of another, or a context the end of another, some token must be left to ask.
        starts = [max(1, min(start, len(row) - 1)) for start, row in zip(starts, rows, strict=True)]
        return _cut(Item(rows, starts, self.rows[index].get("gold", 0), 0), context)

    def prompts(self, index: int) -> list[str]:
        """The texts of row `index`: one for each option; for language modelling without and with the continuation."""
        row, gap = self.rows[index], self.delimiter
        before = "".join(f"{self._told(shot)}\n\n" for shot in self.shots_of(index))
        if self.kind == "multiple_choice":
            return [f"{before}{row['query']}{gap}{choice}" for choice in row["choices"]]
        if self.kind == "schema":
            return [f"{before}{context}{gap}{row['continuation']}" for context in row["context_options"]]
        question = f"{before}{row['context'].strip()}{gap}"
        # A space at the end would be part of the answer's first token.
        return [question.strip(), question + row["continuation"]]

    def _told(self, shot: dict) -> str:
        """An example with its right answer."""
        if self.kind == "multiple_choice":
            return f"{shot['query']}{self.delimiter}{shot['choices'][shot['gold']]}"
        if self.kind == "schema":
            return f"{shot['context_options'][shot['gold']]}{self.delimiter}{shot['continuation']}"
        return f"{shot['context'].strip()}{self.delimiter}{shot['continuation']}"


def common(rows: list[np.ndarray]) -> int:
    """How many tokens all rows begin with alike."""
    shortest = min(map(len, rows))
    differ = np.zeros(shortest, bool)
    for row in rows[1:]:
        differ |= row[:shortest] != rows[0][:shortest]
    return int(differ.argmax()) if differ.any() else shortest


def _cut(item: Item, context: int) -> Item:
    """The item with rows of at most context + 1 tokens (the last is only predicted): <|bos|> and the end are kept.

    All rows lose the same tokens, so that the options stand behind the same text, unless one would lose its answer.
    """
    gone = [max(0, len(row) - (context + 1)) for row in item.rows]
    if not any(gone):
        return item
    if max(gone) < min(item.starts):
        gone = [max(gone)] * len(gone)
    rows = [np.concatenate([row[:1], row[1 + n :]]) for row, n in zip(item.rows, gone, strict=True)]
    return Item(rows, [max(1, start - n) for start, n in zip(item.starts, gone, strict=True)], item.gold, 1)


def open_bundle(folder: Path) -> list[CoreTask]:
    """The tasks of a bundle. Raises DataError where `folder` holds none."""
    for name, table in TABLES.items():
        if (folder / name).is_file():
            return _tasks(folder / name, table)
    raise DataError(f"{folder}: no CORE bundle (core_tasks.json, or core.yaml with eval_data/); put one there")


def _tasks(file: Path, table) -> list[CoreTask]:
    try:
        tasks = table(file)
    except (OSError, ValueError, KeyError, TypeError, LookupError) as error:
        detail = " ".join(str(error).split())[:100]
        raise DataError(f"{file}: damaged or of another form ({detail}); copy the bundle again") from None
    for task in tasks:
        if task.kind not in FIELDS:
            raise DataError(f"{file}: {task.label} is of type {task.kind!r}; the types are {', '.join(FIELDS)}")
    return tasks


def _own_table(file: Path) -> list[CoreTask]:
    table = json.loads(file.read_text(encoding="utf-8"))
    return [
        CoreTask(
            row["label"],
            row["icl_task_type"],
            int(row["num_fewshot"]),
            row["continuation_delimiter"],
            0.01 * float(row["random_baseline"]),
            file.parent / row["file"],
        )
        for row in table["tasks"]
    ]


def _family_table(file: Path) -> list[CoreTask]:
    import yaml  # comes with huggingface_hub

    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(error) from None
    with open(file.parent / "eval_meta_data.csv", newline="", encoding="utf-8") as meta:
        baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in csv.DictReader(meta)}
    return [
        CoreTask(
            row["label"],
            row["icl_task_type"],
            int(row["num_fewshot"][0]),
            row.get("continuation_delimiter", " "),
            0.01 * baselines[row["label"]],
            file.parent / "eval_data" / row["dataset_uri"],
        )
        for row in table["icl_tasks"]
    ]


TABLES = {"core_tasks.json": _own_table, "core.yaml": _family_table}
"""The file that makes a folder a bundle, and how it is read."""


def read_rows(path: Path, fields: tuple[str, ...]) -> list[dict]:
    """The rows of a JSONL file, plain or gzipped, each with `fields`. Raises DataError."""
    opener = gzip.open if path.name.endswith(".gz") else open
    rows = []
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_checked(json.loads(line), fields, f"{path}: line {number}"))
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        what = getattr(error, "strerror", None) or " ".join(str(error).split())[:100]
        raise DataError(f"{path}: cannot be read ({what}); copy the bundle again") from None
    if not rows:
        raise DataError(f"{path}: it has no rows; copy the bundle again")
    return rows


def _checked(row, fields, place: str) -> dict:
    options = row.get(fields[0] if "context_options" in fields else "choices") if isinstance(row, dict) else None
    wrong = not isinstance(row, dict) or [f for f in fields if f not in row]
    if not wrong and "context" in fields:
        wrong = not (isinstance(row["context"], str) and isinstance(row["continuation"], str))
    if not wrong and "gold" in fields:
        wrong = not (isinstance(options, list) and isinstance(row["gold"], int) and 0 <= row["gold"] < len(options))
    if wrong:
        raise DataError(f"{place}: a row must have {', '.join(fields)}; copy the bundle again")
    return row
