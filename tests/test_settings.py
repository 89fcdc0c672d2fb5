"""Settings: presets, flags, identities."""

import argparse
from dataclasses import dataclass

import pytest

from pynanochat import settings
from pynanochat.errors import UsageError
from pynanochat.stages.commands import SETTINGS, open_run, parser


@dataclass(frozen=True)
class Base:
    speed: float = 1.5
    """How fast."""

    OPERATIONAL = frozenset({"speed"})


@dataclass(frozen=True)
class Child(Base):
    name: str = "x"
    """What it
    is called."""
    loud: bool = False
    """Whether it shouts, 100%."""


def test_docs_come_from_the_class_and_its_base():
    assert settings.field_docs(Child) == {
        "speed": "How fast.",
        "name": "What it is called.",
        "loud": "Whether it shouts, 100%.",
    }


@pytest.mark.parametrize("cls", SETTINGS.values())
def test_every_field_has_a_docstring(cls):
    assert set(settings.field_docs(cls)) == set(cls.__dataclass_fields__)


def test_flags_are_absent_unless_given():
    flags = argparse.ArgumentParser()
    settings.add_flags(flags, Child)
    assert vars(flags.parse_args([])) == {}
    assert vars(flags.parse_args(["--speed", "2", "--loud", "--name", "y"])) == {
        "speed": 2.0,
        "loud": True,
        "name": "y",
    }
    assert "100%" in flags.format_help()


def test_a_switch_that_came_later_was_off_before():
    assert settings.differences({"depth": 2}, {"depth": 2, "fp8": False}) == ""
    assert settings.differences({"depth": 2}, {"depth": 2, "fp8": True}) == "fp8 False -> True"
    assert (
        settings.differences({"depth": 2, "weights_hash": None}, {"depth": 3, "weights_hash": None}) == "depth 2 -> 3"
    )


def test_later_tables_win_and_unknown_names_are_refused():
    assert settings.build(Child, {"name": "a", "speed": 2.0}, {"name": "b"}) == Child(2.0, "b")
    with pytest.raises(UsageError, match="'colour'.*name"):
        settings.build(Child, {"colour": 1})


def test_operational_fields_do_not_bind():
    assert settings.binding(Child(speed=9.0)) == {"name": "x", "loud": False}


@pytest.mark.parametrize("name", settings.preset_names())
def test_every_preset_is_valid(name):
    for table, values in settings.load_preset(name).items():
        settings.build(SETTINGS[table], values)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(UsageError, match="huge.*toy"):
        settings.load_preset("huge")


def test_flags_override_the_preset(tmp_path):
    flags = parser("p", "d").parse_args(["--preset", "toy", "--run", str(tmp_path / "r"), "--depth", "2"])
    run = open_run(vars(flags), recorded=False)
    assert run.tables["pretrain"].depth == 2
    assert run.tables["tokenizer"].vocab_size == settings.load_preset("toy")["tokenizer"]["vocab_size"]


def test_a_single_stage_starts_from_the_recorded_settings(tmp_path):
    flags = ["--run", str(tmp_path / "r")]
    first = open_run(vars(parser("p", "d").parse_args([*flags, "--preset", "toy", "--depth", "2"])), recorded=False)
    first.save_settings()
    again = open_run(vars(parser("p", "d").parse_args([*flags, "--eval-every", "7"])), recorded=True)
    assert again.tables["pretrain"].depth == 2
    assert again.tables["pretrain"].eval_every == 7
