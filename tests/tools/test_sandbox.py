"""The sandbox as a judge: what passes, what fails, and programs that would pass without being right."""

import concurrent.futures
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pynanochat.errors import BackendError
from pynanochat.tools import sandbox, sandbox_helper
from pynanochat.tools.sandbox import LONGEST_PROGRAM, active_tier, isolated, passes
from tests.tools.programs import ADD, LONG, SQUARE, TESTS, WRONG

HUMAN_EVAL = Path(__file__).parents[2].parent / "shared/data/tasks/HumanEval.jsonl.gz"


# --- what passes and what does not


def test_right_program_passes(tier):
    outcome = passes(ADD, "assert add(2, 3) == 5", timeout=LONG)
    assert (outcome.passed, outcome.reason, outcome.output, outcome.tier) == (True, "passed", "", tier)


def test_wrong_program_fails(tier):
    outcome = passes("def add(a, b):\n    return a - b\n", "assert add(2, 3) == 5", timeout=LONG)
    assert (outcome.passed, outcome.reason) == (False, "a test failed")


@pytest.mark.parametrize("tests", ["", "\n", "pass", "def check(candidate):\n    assert candidate(1, 1) == 2\n"])
def test_nothing_checked_is_no_pass(tests):
    outcome = passes(ADD, tests, timeout=LONG)
    assert not outcome.passed
    assert outcome.reason.startswith("nothing was checked")


def test_tier_is_told():
    parts = set(active_tier().split("+"))
    assert parts <= {"namespaces", "landlock", "seccomp"} or parts == {"rlimits only"}
    assert isolated() == ("namespaces" in parts or {"landlock", "seccomp"} <= parts)


PLAIN = [
    None, True, 0, -1, 2**200, -(2**70), 1.5, float("inf"), 1e-300, 2 + 3j, "", "text", "\x00\ud800\U0001f600\n",
    b"\x00\xff", [], [1, [2, (3, "x")]], (), (1,), {}, {"a": [1], 2: {"b": None}, (1, 2): 3}, {1, 2}, frozenset({"x"}),
    range(2, 9, 3),
    [True, 1, 1.0],
]  # fmt: skip


def test_plain_values_go_over_and_come_back_with_their_types():
    tests = f"from math import inf\nfor value in {PLAIN!r}:\n    assert repr(same(value)) == repr(value), value\n"
    outcome = passes("def same(value):\n    return value\n", tests, timeout=LONG)
    assert outcome.passed, outcome


def test_subclasses_of_plain_values_arrive_as_plain():
    program = "from collections import Counter, namedtuple\nPair = namedtuple('Pair', 'a b')\n"
    program += "def count(text):\n    return Counter(text)\ndef pair():\n    return Pair(1, 2)\n"
    assert passes(program, "assert count('aab') == {'a': 2, 'b': 1}\nassert pair() == (1, 2)", timeout=LONG).passed


def test_other_names_modules_and_constants_of_the_program_serve_the_tests():
    program = "import math\nLIMIT = [1, 2]\ndef helper(x):\n    return math.sqrt(x)\n"
    assert passes(program, "assert helper(4) == math.sqrt(4)\nassert LIMIT == [1, 2]", timeout=LONG).passed


def test_exceptions_reach_the_tests_as_they_were():
    program = "class Own(Exception):\n    pass\n\n\ndef f(x):\n    raise ValueError('no') if x else Own('mine')\n"
    tests = (
        "try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == 'no'\nelse:\n    assert False\n"
        "try:\n    f(0)\nexcept Exception as e:\n    assert 'Own: mine' in str(e)\nelse:\n    assert False\n"
    )
    outcome = passes(program, tests, timeout=LONG)
    assert outcome.passed, outcome


def test_output_and_reason_are_kept():
    outcome = passes("print('hello')\nimport sys\nprint('there', file=sys.stderr)\n1 / 0\n", TESTS, timeout=LONG)
    assert (outcome.passed, outcome.reason) == (False, "ZeroDivisionError: division by zero")
    assert sorted(outcome.output.split()) == ["hello", "there"]


def test_demonstrations_do_not_run():
    assert passes(SQUARE + "if __name__ == '__main__':\n    print(input())\n", TESTS, timeout=LONG).passed


def test_program_and_tests_over_128_kib():
    outcome = passes(SQUARE + "x = 1\n" * 100_000, TESTS + "y = 1\n" * 100_000, timeout=LONG)
    assert outcome.passed, outcome


def test_program_that_is_far_too_long():
    outcome = passes("x" * (LONGEST_PROGRAM + 1), TESTS)
    assert not outcome.passed
    assert "longer than" in outcome.reason


def test_eight_at_once():
    jobs = [(f"def f(x):\n    return x + {i}\n", f"assert f(1) == {1 + i // 2 * 2}") for i in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda job: passes(*job, timeout=2 * LONG), jobs))
    assert [outcome.passed for outcome in outcomes] == [i % 2 == 0 for i in range(24)]


COMING_AND_GOING = """
import os
for _ in range(23):
    if not os.fork():
        break
while True:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_processes_that_end_while_the_helper_lists_them():
    others = subprocess.Popen([sys.executable, "-I", "-S", "-c", COMING_AND_GOING], start_new_session=True)
    try:
        for _ in range(50):
            assert passes(ADD, "assert add(2, 3) == 5", timeout=LONG).passed
    finally:
        os.killpg(others.pid, signal.SIGKILL)
        others.wait()


def test_sandbox_that_cannot_be_set_up_is_our_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "active_tier", lambda: "namespaces")
    monkeypatch.setattr(sandbox_helper, "helper", lambda: str(tmp_path / "missing"))
    with pytest.raises(BackendError, match="did not run"):
        passes(SQUARE, TESTS)


def test_no_helper_is_the_lowest_tier(monkeypatch):
    monkeypatch.setattr(sandbox_helper, "helper", lambda: None)
    assert sandbox_helper.probe(sandbox.interpreter()) == "rlimits only"


# --- programs that would pass without being right

SEND = "import os\ndef send(text):\n    data = text.encode()\n    os.write(5, b'%08x' % len(data) + data)\n"
FORGERIES = {
    "sys.exit(0)": "import sys\nsys.exit(0)\n",
    "os._exit(0)": "import os\nos._exit(0)\n",
    "exit in the call": "import sys\ndef square(x):\n    sys.exit(0)\n",
    "os._exit in the call": "import os\ndef square(x):\n    os._exit(0)\n",
    "BaseException": "def square(x):\n    raise BaseException\n",
    "KeyboardInterrupt": "def square(x):\n    raise KeyboardInterrupt\n",
    "GeneratorExit at the top": "raise GeneratorExit\n",
    "exits after the last call": "import os\ndef square(x):\n    return 4 if x == 2 else os._exit(0)\n",
    "equals everything": "class Any:\n    __eq__ = lambda *a: True\n    __sub__ = __abs__ = __lt__ = lambda *a: True\n"
    "def square(x):\n    return Any()\n",
    "an int that equals everything": "class Any(int):\n    __eq__ = lambda *a: True\n    __hash__ = int.__hash__\n"
    "def square(x):\n    return Any(7)\n",
    "own check": WRONG + "def check(candidate):\n    pass\n",
    "own builtins": WRONG + "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = SystemExit\n"
    "def abs(x):\n    return 0\nclass AssertionError(BaseException):\n    pass\n",
    "own __eq__ of the arguments": "class square(int):\n    __eq__ = lambda *a: True\n",
    "hook on exceptions": WRONG + "import sys\nsys.excepthook = lambda *a: None\nsys.settrace(lambda *a: None)\n",
    "atexit": WRONG + "import atexit, os\natexit.register(os._exit, 0)\n",
    "closes every descriptor": WRONG + "import os\nos.closerange(0, 1024)\n",
    "writes a verdict everywhere": WRONG + "import os\nfor fd in range(3, 64):\n    try:\n"
    "        os.write(fd, b'00000027' + b'0' * 32 + b' passed')\n    except OSError:\n        pass\n",
    "reopens what it finds": WRONG + "import os\nfor pid in range(1, 40):\n    for fd in range(64):\n        try:\n"
    "            with open(f'/proc/{pid}/fd/{fd}', 'wb') as f:\n                f.write(b'00000027')\n"
    "        except OSError:\n            pass\n",
    "answers before it is asked": SEND + "send('d0:')\nsend('d2:s5:checkd2:s8:functionys3:absd2:s8:functiony')\n"
    "send('d2:s5:valuey')\nsend('d2:s5:valuey')\n",
    "claims a builtin": SEND + "send('d0:')\nsend('d4:s6:squared2:s8:functionys3:absd2:s8:functiony')\n"
    "send('d2:s5:valuei4;')\nsend('d2:s5:valuei0;')\nsend('d2:s5:valuei0;')\n",
    "a message without end": "import os\nos.write(5, b'ffffffff')\nimport time\ntime.sleep(600)\n",
    "a length that is none": "import os\nos.write(5, b'-0000001' * 100)\n",
    "nested without end": SEND + "send('l1:' * 100_000)\n",
    "a list without its items": SEND + "send('l999999999999:')\n",
    "a negative length": SEND + "send('d0:')\nsend('d-1:')\nsend('s-5:')\n",
    "no dict": SEND + "send('n')\nsend('i5;')\n",
    "a value that is no encoding": SEND + "send('d0:')\nsend('d2:s6:squared2:s8:functiony')\nsend('x')\n",
    "fork, and the parent leaves": WRONG + "import os\nif os.fork():\n    os._exit(0)\n",
    "wrong answer, then a right one": SEND + WRONG + "import threading\n"
    "threading.Thread(target=lambda: [send('d2:s5:valuei4;') for _ in range(9)]).start()\n",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery(name, tier):
    outcome = passes(FORGERIES[name], TESTS, timeout=2.0)
    assert not outcome.passed, outcome


def test_tests_and_nonce_are_not_to_be_found_in_the_program(tier, monkeypatch):
    monkeypatch.setattr(sandbox.secrets, "token_hex", lambda size: "nonce-of-the-judge")
    program = """
import gc, os, sys
found = [repr(o)[:9999] for o in gc.get_objects() if not isinstance(o, type(gc))] + [repr((sys.argv, os.environ))]
frame = sys._getframe()
while frame:
    found.append(repr(frame.f_locals))
    frame = frame.f_back
for fd in range(3, 64):
    try:
        found.append(repr(os.pread(fd, 9999, 0)))
    except OSError:
        pass
words = ["egduj-eht-fo-ecnon", "stset-eht-fo-terces"]  # backwards, so as not to find themselves
print(len(found), [word for word in words if any(word[::-1] in text for text in found)])
"""
    outcome = passes(SQUARE + program, TESTS + "secret = 'secret-of-the-tests'\n", timeout=LONG)
    assert outcome.passed, outcome
    number, left = outcome.output.split(" ", 1)
    assert int(number) > 100
    assert left.strip() == "[]"


# --- HumanEval

needs_human_eval = pytest.mark.skipif(
    not HUMAN_EVAL.is_file(), reason="../shared/data/tasks/HumanEval.jsonl.gz is not here"
)


def human_eval():
    with gzip.open(HUMAN_EVAL, "rt") as file:
        return [json.loads(line) for line in file]


def judged(row, solution):
    return passes(row["prompt"] + solution, f"{row['test']}\ncheck({row['entry_point']})\n", timeout=2 * LONG)


@needs_human_eval
@pytest.mark.slow
def test_canonical_solutions_pass():
    failed = [
        (row["task_id"], outcome)
        for row in human_eval()
        if not (outcome := judged(row, row["canonical_solution"])).passed
    ]
    assert failed == []


@needs_human_eval
@pytest.mark.parametrize(
    "broken", ["    pass\n", "    return None\n", "    raise SystemExit(0)\n", "    return True\n"]
)
def test_broken_solutions_fail(broken):
    rows = human_eval()[::16]
    assert [row["task_id"] for row in rows if judged(row, broken).passed] == []
