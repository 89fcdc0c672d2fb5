"""The model's calculator: arithmetic and letter counting, parsed by hand, exact, and bounded on hostile input.

    calculate("1,200 * 3 / 4")              "900"
    calculate("0.1 + 0.2")                  "0.3"
    calculate("'strawberry'.count('r')")    "3"
    calculate("2 ** 9")                     None: anything that is not in the grammar

    count   = string ".count(" string ")"
    sum     = product (("+" | "-") product)*
    product = unary (("*" | "/") unary)*
    unary   = ("+" | "-")* (number | "(" sum ")")
    number  = "1,200.50" | "1200" | ".5" | "5."

Numbers are exact fractions, so the answer does not depend on the order of operations. Lengths and nesting are bounded
and there are no powers, so that no input takes long. There is no state; any thread may call.
"""

import re
from fractions import Fraction

LONGEST_EXPRESSION = 512  # characters; the longest of GSM8K has 70
DEEPEST_NESTING = 32
LONGEST_RESULT = 64  # characters
ENDLESS_DECIMALS, MOST_DECIMALS = 12, 40
"""Digits after the point: of a result that has no end (1/3), and of any other."""

_NUMBER = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+")
_TOKEN = re.compile(rf"\s*(?:({_NUMBER.pattern})|([-+*/()]))\s*")
_STRING = r"""("[^"\\]*"|'[^'\\]*')"""
_COUNT = re.compile(rf"\s*{_STRING}\s*\.\s*count\s*\(\s*{_STRING}\s*\)\s*")


class _Unreadable(Exception):
    """The expression is not in the grammar, or has no value."""


def calculate(expression: str) -> str | None:
    """The value of `expression` as the training data would write it, or None where it has none."""
    if len(expression) > LONGEST_EXPRESSION:
        return None
    if found := _COUNT.fullmatch(expression):
        text, wanted = (quoted[1:-1] for quoted in found.groups())
        return str(text.count(wanted))
    try:
        tokens = _tokens(expression)
        value, end = _sum(tokens, 0, DEEPEST_NESTING)
        if end != len(tokens):
            return None
    except (_Unreadable, ZeroDivisionError):
        return None
    written = _written(value)
    return written if len(written) <= LONGEST_RESULT else None


def _tokens(expression):
    """Numbers as Fractions, everything else as one-character strings."""
    tokens, at = [], 0
    while at < len(expression):
        found = _TOKEN.match(expression, at)
        if not found:
            raise _Unreadable
        number, sign = found.groups()
        tokens.append(sign if number is None else Fraction(number.replace(",", "").rstrip(".")))
        at = found.end()
    return tokens


def _sum(tokens, at, depth):
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in ("+", "-"):
        term, after = _product(tokens, at + 1, depth)
        value = value + term if tokens[at] == "+" else value - term
        at = after
    return value, at


def _product(tokens, at, depth):
    value, at = _unary(tokens, at, depth)
    while at < len(tokens) and tokens[at] in ("*", "/"):
        factor, after = _unary(tokens, at + 1, depth)
        value = value * factor if tokens[at] == "*" else value / factor
        at = after
    return value, at


def _unary(tokens, at, depth):
    sign = 1
    while at < len(tokens) and tokens[at] in ("+", "-"):
        sign = -sign if tokens[at] == "-" else sign
        at += 1
    if at == len(tokens):
        raise _Unreadable
    if isinstance(tokens[at], Fraction):
        return sign * tokens[at], at + 1
    if tokens[at] != "(" or depth == 0:
        raise _Unreadable
    value, at = _sum(tokens, at + 1, depth - 1)
    if at == len(tokens) or tokens[at] != ")":
        raise _Unreadable
    return sign * value, at + 1


def _written(value):
    """10 rather than 10.0; every digit of a decimal that ends; else rounded, half to even."""
    if value.denominator == 1:
        return str(value.numerator)
    decimals = ENDLESS_DECIMALS if 10**MOST_DECIMALS % value.denominator else MOST_DECIMALS
    units = round(abs(value) * 10**decimals)
    digits = str(units).rjust(decimals + 1, "0")
    whole, part = digits[:-decimals], digits[-decimals:].rstrip("0")
    sign = "-" if value < 0 and units else ""
    return f"{sign}{whole}.{part}" if part else f"{sign}{whole}"
