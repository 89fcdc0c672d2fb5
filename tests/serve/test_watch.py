"""Reading the metrics of a run that goes on: only what is new, whatever happens to the file."""

import json
import math

from pynanochat.serve import watch
from pynanochat.serve.watch import MOST_OTHERS, MOST_STEPS, Tail, Watch, evenly


def write(folder, stage, lines, mode="a"):
    (folder / stage).mkdir(parents=True, exist_ok=True)
    with open(folder / stage / "metrics.jsonl", mode) as file:
        file.write("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


def points(data, stage="pretrain"):
    return next(one["points"] for one in data["stages"] if one["stage"] == stage)


def test_a_growing_run(tmp_path):
    one = Watch(tmp_path)
    assert one.data() == {"run": tmp_path.name, "stages": []}
    write(tmp_path, "pretrain", [{"step": 1, "loss": 3.0}, {"step": 1, "val_bpb": 2.0}])
    assert points(one.data()) == [{"step": 1, "loss": 3.0}, {"step": 1, "val_bpb": 2.0}]
    write(tmp_path, "pretrain", ['{"step": 2, "lo'])
    assert len(points(one.data())) == 2  # a line that is not whole waits
    write(tmp_path, "pretrain", ['ss": 2.5}\n'])
    assert points(one.data())[-1] == {"step": 2, "loss": 2.5}
    (tmp_path / "pretrain" / "done.json").write_text("{}")
    write(tmp_path, "sft", [{"step": 0, "val_loss": 1.0}])
    assert [(s["stage"], s["done"]) for s in one.data()["stages"]] == [("pretrain", True), ("sft", False)]


def test_only_new_bytes_are_parsed(tmp_path, monkeypatch):
    one = Watch(tmp_path)
    write(tmp_path, "pretrain", [{"step": i, "loss": 1.0} for i in range(50)])
    one.data()
    parsed, real = [], watch._point
    monkeypatch.setattr(watch, "_point", lambda line: parsed.append(line) or real(line))
    write(tmp_path, "pretrain", [{"step": 50, "loss": 1.0}])
    assert len(points(one.data())) == 51 and len(parsed) == 1


def test_a_file_that_was_cut_is_read_anew(tmp_path):
    one = Watch(tmp_path)
    write(tmp_path, "pretrain", [{"step": i, "loss": float(i)} for i in range(20)])
    one.data()
    write(tmp_path, "pretrain", [{"step": i, "loss": float(i)} for i in range(10)], "w")
    assert [p["step"] for p in points(one.data())] == list(range(10))
    # a resumption cuts and then writes past our place before we look again
    write(tmp_path, "pretrain", [{"step": i, "loss": 7.0} for i in range(5, 40)], "w")
    assert [p["step"] for p in points(one.data())] == list(range(5, 40))
    (tmp_path / "pretrain" / "metrics.jsonl").unlink()
    assert one.data()["stages"] == []


def test_hostile_lines(tmp_path):
    lines = [
        "nonsense\n",
        "[1]\n",
        "\n",
        '{"step": 1, "loss": NaN}\n',
        '{"step": 2, "loss": 1e999}\n',
        "[" * 5000 + "\n",
    ]
    lines += ['{"step": 3, "loss": 1.5, "note": "<b>", "flag": true, "deep": {"x": 1}}\n']
    lines += ['{"step": 4, "samples": [{"prompt": "<b>", "text": 5, "more": 1}, 7]}\n', '{"step": "x", "loss": 1}\n']
    write(tmp_path, "pretrain", lines)
    found = points(Watch(tmp_path).data())
    assert {"step": 3, "loss": 1.5} in found and {"step": 1} in found
    assert {"step": 4, "samples": [{"prompt": "<b>", "text": "5"}]} in found
    assert "NaN" not in json.dumps(found) and "Infinity" not in json.dumps(found)


def test_a_long_run_is_thinned(tmp_path):
    rows = [{"step": i, "loss": math.sin(i)} for i in range(5000)] + [
        {"step": i, "val": 1.0} for i in range(0, 5000, 10)
    ]
    write(tmp_path, "rl", rows)
    found = points(Watch(tmp_path).data(), "rl")
    steps = [p["step"] for p in found if "loss" in p]
    assert len(steps) == MOST_STEPS and steps[0] == 0 and steps[-1] == 4999 and steps == sorted(steps)
    assert len(found) - len(steps) == MOST_OTHERS
    assert evenly([1, 2], 2) == [1, 2] and evenly(list(range(10)), 2) == [0, 9]


def test_a_large_file_is_taken_in_by_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_LONGEST_READ", 100)
    write(tmp_path, "pretrain", [{"step": i, "loss": 1.0} for i in range(30)])
    tail = Tail(tmp_path / "pretrain" / "metrics.jsonl")
    for _ in range(20):
        tail.read_on()
    assert [p["step"] for p in tail.points] == list(range(30))
