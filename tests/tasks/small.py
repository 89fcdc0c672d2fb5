"""A small data folder whose files have the shapes of the published ones."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq

PROSE = (
    "the quick brown fox jumps over lazy dogs while seven wise owls watch from branches above where autumn leaves "
    "gently fall upon still water near old stone bridges that merchants cross every morning carrying apples bread "
    "cheese lamps ropes candles wool paper and letters between many distant towns along winding rivers under bright "
    "silver moons whose gentle light guides sailors home again through fog wind rain snow thunder and long quiet nights"
)


def mmlu_rows(name, n):
    return [
        {
            "subject": "trees",
            "question": f"Which tree stands in {name} garden number {i}?",
            "choices": ["oak", "elm", "ash", "fir"],
            "answer": i % 4,
        }
        for i in range(n)
    ]


def arc_rows(name, n):
    numbers = {"text": ["oak", "elm", "ash", "fir"], "label": ["1", "2", "3", "4"]}
    letters = {"text": ["red", "blue", "green"], "label": ["A", "B", "C"]}
    return [
        {
            "id": f"{name}_{i}",
            "question": f"What would you find in {name} place number {i}?",
            "choices": numbers if i % 2 else letters,
            "answerKey": "4" if i % 2 else "B",
        }
        for i in range(n)
    ]


def gsm8k_rows(name, n):
    return [
        {
            "question": f"In {name}, Ann has {i} bags of 1,200 nuts and gives one bag away. How many nuts are left?",
            "answer": f"She has {i}*1200=<<{i}*1200={i * 1200}>>{i * 1200} nuts.\n"
            f"Left are {i * 1200}-1200=<<{i * 1200}-1200={i * 1200 - 1200}>>{i * 1200 - 1200}.\n"
            f"#### {i * 1200 - 1200:,}",
        }
        for i in range(1, n + 1)
    ]


HUMANEVAL_ROWS = [
    {
        "task_id": "Made/0",
        "prompt": 'from math import floor\n\n\ndef half(x: float) -> int:\n    """Half of x, rounded down."""\n',
        "entry_point": "half",
        "canonical_solution": "    return floor(x / 2)\n",
        "test": "def check(candidate):\n    assert candidate(7) == 3\n    assert candidate(-1) == -1\n",
    },
    {
        "task_id": "Made/1",
        "prompt": (
            'def rot(s: str) -> str:\n    """Turn s by one."""\n    return s[1:] + s[:1]\n\n\n'
            'def unrot(s: str) -> str:\n    """Undo rot."""\n'
        ),
        "entry_point": "unrot",
        "canonical_solution": "    return s[-1:] + s[:-1]\n",
        "test": "def check(candidate):\n    assert candidate(rot('hello')) == 'hello'\n",
    },
]


def chats(name, n):
    return [
        {
            "messages": [
                {"role": "user", "content": f"Tell me about {name} {i}."},
                {"role": "assistant", "content": f"{name} {i} is nice."},
                {"role": "user", "content": "Thank you!"},
                {"role": "assistant", "content": "You are welcome."},
            ]
        }
        for i in range(n)
    ]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=max(1, len(rows) // 2))


def write_folder(folder):
    """FOLDER with pretrain/, tasks/, core/ and sft/."""
    write_jsonl(folder / "pretrain" / "a.jsonl", [{"text": PROSE} for _ in range(40)])
    tasks = folder / "tasks"
    for part, n in (("dev", 6), ("validation", 5), ("test_sample", 9)):
        write_jsonl(tasks / f"mmlu_{part}.jsonl.gz", mmlu_rows(part, n))
    for part, n in (("train", 8), ("test", 5)):
        write_jsonl(tasks / f"gsm8k_{part}.jsonl.gz", gsm8k_rows(part, n))
    write_jsonl(tasks / "arc_easy_validation.jsonl.gz", arc_rows("validation", 4))
    write_jsonl(tasks / "HumanEval.jsonl.gz", HUMANEVAL_ROWS)
    core = [{"query": "Question: What is wet?", "choices": ["fire", "rain"], "gold": 1}]
    write_jsonl(folder / "core" / "arc_easy.jsonl.gz", core)
    write_jsonl(folder / "sft" / "talk.jsonl.gz", chats("Rome", 60))
    write_jsonl(folder / "sft" / "more.jsonl", [{"instruction": "Say hi", "input": "", "output": "Hi."}])
    return folder
