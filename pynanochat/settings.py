"""Settings of a run: dataclasses, then a preset's TOML table, then flags; in this order, the later wins.

A settings class is a frozen dataclass whose fields each carry a docstring; the docstring is the help of the field's
flag (`batch_tokens` is `--batch-tokens`). Fields named in the class's OPERATIONAL set say how a run is carried out, not
what it computes; they may change between a run and its resumption.
"""

import argparse
import ast
import dataclasses
import functools
import hashlib
import importlib.resources
import inspect
import itertools
import json
import math
import sys
import textwrap

from pynanochat.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@functools.cache
def field_docs(cls) -> dict[str, str]:
    """The docstring below each field of a settings class and its bases."""
    docs = field_docs(cls.__base__) if dataclasses.is_dataclass(cls.__base__) else {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    for node, following in itertools.pairwise(body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs = docs | {node.target.id: " ".join(following.value.value.split())}
    return docs


def add_flags(parser: argparse.ArgumentParser, *classes, flag_prefix: str = "", dest_prefix: str = "") -> None:
    """One flag for each field of each class; absent flags leave no attribute behind.

    The prefixes stand before the names of the flags ("sft_" makes --sft-steps) and of the attributes.
    """
    for cls in classes:
        group = parser.add_argument_group(cls.__name__.removesuffix("Settings").lower() or "run")
        docs = field_docs(cls)
        for field in dataclasses.fields(cls):
            flag = "--" + (flag_prefix + field.name).replace("_", "-")
            _add_flag(group, flag, dest_prefix + field.name, field, docs[field.name])


def _add_flag(group, flag, dest, field, doc):
    text = f"{doc} (default: {field.default})".replace("%", "%%")
    how = {"dest": dest, "default": argparse.SUPPRESS, "help": text}
    if field.type is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **how)
    else:
        group.add_argument(flag, type=field.type, metavar="X", **how)


def preset_names() -> list[str]:
    files = (importlib.resources.files("pynanochat") / "presets").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_preset(name: str) -> dict[str, dict]:
    """The tables of preset `name`. Raises UsageError for an unknown one."""
    if name not in preset_names():
        raise UsageError(f"--preset {name}: there is none; use one of {', '.join(preset_names())}")
    return tomllib.loads((importlib.resources.files("pynanochat") / "presets" / f"{name}.toml").read_text())


def build(cls, *tables: dict):
    """An instance of `cls` from tables of field values, the later ones winning; unknown names are an error."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for table in tables:
        for name, value in table.items():
            if name not in known:
                raise UsageError(f"setting {name!r} is not known to {cls.__name__}; it has {', '.join(known)}")
            values[name] = value
    return cls(**values)


def check_numbers(settings, *, finite=(), zero_or_more=(), positive=(), flag_prefix: str = "") -> None:
    """Raise UsageError, with the flag's name, for the first of the named fields that is out of its range."""
    value = lambda name: getattr(settings, name)  # noqa: E731
    for names, holds, wanted in (
        (finite, lambda v: True, "a finite number"),
        (zero_or_more, lambda v: v >= 0, "0 or more"),
        (positive, lambda v: v > 0, "above 0"),
    ):
        for name in names:
            if not (math.isfinite(value(name)) and holds(value(name))):
                flag = "--" + (flag_prefix + name).replace("_", "-")
                raise UsageError(f"{flag} {value(name)}: must be {wanted}")


def binding(settings) -> dict:
    """The fields that decide what is computed: all but the class's OPERATIONAL ones."""
    return {k: v for k, v in dataclasses.asdict(settings).items() if k not in settings.OPERATIONAL}


def fingerprint(facts: dict) -> str:
    """SHA-256 of a JSON-able dict."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def differences(before: dict, now: dict) -> str:
    """What differs between two flat dicts, for an error message; empty when nothing does. What one of them lacks is
    False there: a switch that came later."""
    facts = {n: (before.get(n, False), now.get(n, False)) for n in {**before, **now}}
    return ", ".join(f"{n} {a} -> {b}" for n, (a, b) in facts.items() if a != b)
