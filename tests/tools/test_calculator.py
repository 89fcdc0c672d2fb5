"""The calculator: what the data writes, what is refused, and that nothing takes long."""

import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynanochat.tools.calculator import DEEPEST_NESTING, LONGEST_EXPRESSION, calculate

VALUES = {
    "48/2": "24",
    "48+24": "72",
    "10.0": "10",
    "0.1+0.2": "0.3",
    "1,200*3": "3600",
    "1,234,567.5 - .5": "1234567",
    "2-.5": "1.5",
    "10/4": "2.5",
    "1/3*3": "1",
    "1/3": "0.333333333333",
    "-2/3": "-0.666666666667",
    "-7": "-7",
    "--7": "7",
    "+7": "7",
    "2*-3": "-6",
    "2+3*4": "14",
    "(2+3)*4": "20",
    "8/4/2": "1",
    "8-4-2": "2",
    " 1 +\t2 \n": "3",
    "5.": "5",
    "165*.20": "33",
    "0.000000000000000001": "0.000000000000000001",
    "99999999999*99999999999": "9999999999800000000001",
    "1-1": "0",
    "-0": "0",
    "'strawberry'.count('r')": "3",
    '"it\'s".count("t")': "1",
    " 'banana' . count( 'an' ) ": "2",
    "'x'.count('y')": "0",
}
REFUSED = [
    "", " ", "+", "1+", "*1", "(1", "1)", "()", "1 2", "3(4)", "(3)(4)", "2**9", "2^9", "7//2", "7%2", "1e5", "0x1",
    "1,00", "1,2345", ",1", "1,,000", "1..2", ".", "1.2.3", "1,000,", "\u0661+1", "\uff11", "1/0", "1/(2-2)", "nan",
    "inf", "a", "len('a')", "__import__('os')", "'a'.count", "'a'.count()", "'a'.count('b", "'a'.upper()", "'a'",
    "'a'.count('b').real", "'\\''.count('a')", "1+'a'.count('a')", "1;2", "1\x00", "\ufffd", "9" * 65,
    "().__class__", "lambda: 0", "open('/etc/passwd')", "exec('1')", "f'{1}'.count('1')", "b'a'.count('a')",
    "r'a'.count('a')", "'a' 'b'.count('a')", "'a'.count('a', 0)", "'a'.count('a').__class__", "'a'.__len__()",
    "1if 1else 2", "1 or 2", "1<2", "~1", "1_000", "1j", "0b1", "1&1", "1\u200b+1", "1\u2212 1", "\u00b2", "\u00bd",
    "\u202e1+1", "1+1#", "1+1\\", "\ud800", "9" * 40 + "*" + "9" * 40, "-" + "9" * 64,
]  # fmt: skip


@pytest.mark.parametrize("expression", VALUES)
def test_values(expression):
    assert calculate(expression) == VALUES[expression]


@pytest.mark.parametrize("expression", REFUSED)
def test_refused(expression):
    assert calculate(expression) is None


def test_bounds():
    deep = DEEPEST_NESTING
    assert calculate("(" * deep + "1" + ")" * deep) == "1"
    assert calculate("(" * (deep + 1) + "1" + ")" * (deep + 1)) is None
    assert calculate("1" + " " * (LONGEST_EXPRESSION - 1)) == "1"
    assert calculate("1" + " " * LONGEST_EXPRESSION) is None


numbers = st.integers(0, 10**9) | st.decimals(0, 10**6, places=3)
expressions = st.recursive(
    numbers.map(lambda n: f"{n:f}" if not isinstance(n, int) else str(n)),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=12,
)


@given(expressions)
def test_against_python_fractions(expression):
    """Python's own parser over Fraction literals is the reference."""
    import re

    try:
        expected = eval(re.sub(r"[0-9.]+", lambda m: f"Fraction('{m[0]}')", expression), {"Fraction": Fraction})
    except ZeroDivisionError:
        expected = None
    got = calculate(expression)
    if got is None:
        assert expected is None or len(str(float(expected))) > 15 or abs(expected) > 10**60
    else:
        assert abs(Fraction(got) - expected) <= Fraction(1, 2 * 10**12)


@given(st.text(alphabet="0123456789.,+-*/() '\"count\\", max_size=600) | st.text(max_size=100))
def test_any_text_is_answered_or_refused(text):
    result = calculate(text)
    assert result is None or (isinstance(result, str) and len(result) <= 64 * 8)


HOSTILE = {
    "open": "(" * 512,
    "nested": "(" * 256 + ")" * 256,
    "digits": "9" * 512,
    "unlike denominators": "+".join(f"1/{p}" for p in (97, 89, 83, 79, 73, 71, 67) * 20)[:512].rstrip("+/"),
    "quotients": "1/" * 255 + "1",
    "signs": "-" * 511 + "1",
    "commas": "1," * 256,
    "spaces": " " * 512,
    "quotes": "'" * 512,
    "almost a count": "'" + "a" * 490 + "'.count('a",
    "count of repeats": "'" + "a" * 400 + "'.count('" + "a" * 50 + "b')",
    "long decimals": "." + "1" * 500,
    "small and large": "/".join(["." + "0" * 60 + "1"] * 7),
    "continued fraction": "1/(1+" * 31 + "1" + ")" * 31,
    "doubling": "*".join(["99999999"] * 56),
    "broken number at the end": "1,234" * 100 + ",",
    "surrogates": "\ud800" * 512,
    "count of nothing": "'" + "a" * 480 + "'.count('')",
    "megabytes": "9*" * 2_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_takes_no_time(name):
    calculate("1+1")
    assert min(_seconds(HOSTILE[name]) for _ in range(3)) < 0.010


def _seconds(expression):
    """Of this thread's processor, so that nothing else that the machine does counts."""
    start = time.thread_time()
    calculate(expression)
    return time.thread_time() - start


def test_any_thread():
    results = []
    threads = [threading.Thread(target=lambda i=i: results.append(calculate(f"{i}*2") == str(2 * i))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
