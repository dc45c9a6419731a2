"""Commands made of functions: fields and parameters become flags, and what is typed is checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner, Result
from msgspec import Meta, Struct

from loki_rl.cli.flags import Fields, UsageError, make_command
from loki_rl.cli.main import app
from loki_rl.control.policies.named import POLICIES
from loki_rl.options import Count, Fraction, Help
from loki_rl.runs.options import POLICY_NAMES, RunOptions


class Options(Struct):
    """What a command of these tests is told."""

    name: Annotated[str, Help("Who.", "name")]
    size: Annotated[Count | None, Help("How many.")] = None
    share: Annotated[Fraction, Help("How much.")] = 0.5
    rate: Annotated[Annotated[float, Meta(gt=0, le=9)], Help("How often [1/s].")] = 1.0
    kind: Annotated[Literal["plain", "fine"], Help("Which.")] = "plain"
    loud: Annotated[bool, Help("Whether it is heard.")] = False
    open: Annotated[bool, Help("Whether it is seen.")] = True
    parts: Annotated[tuple[str, ...], Help("Of what; repeat it.", "--part")] = ()
    inner: int = 7


seen: dict[str, Any] = {}


def given(options: Options, file: Annotated[Path | None, Help("Where.")] = None) -> None:
    """Do something."""
    seen.update(options=options, file=file)


def maybe(options: Annotated[Options | None, Fields(only=("name", "size"), flags={"size": "--workers"})]) -> None:
    """With or without a name."""
    seen.update(options=options)


def few(options: Annotated[Options, Fields(without=("rate", "kind"))]) -> None:
    """Most of them."""
    seen.update(options=options)


def typed(function: Any, *words: str) -> Result:
    seen.clear()
    return CliRunner().invoke(make_command(function, "given"), words, standalone_mode=False)


def test_what_is_not_typed_has_its_default() -> None:
    assert typed(given, "me").exception is None
    assert seen == {"options": Options("me"), "file": None}


def test_what_is_typed_arrives_with_its_type() -> None:
    words = (
        "me", "--size", "3", "--share", "1", "--rate", "0.5", "--kind", "fine", "--loud", "--no-open", "--part", "a",
        "--part", "b", "--file", "x/y",
    )  # fmt: skip
    assert typed(given, *words).exception is None
    expected = Options("me", 3, 1.0, 0.5, "fine", loud=True, open=False, parts=("a", "b"))
    assert seen == {"options": expected, "file": Path("x/y")}
    assert isinstance(seen["options"].share, float)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--size", "0"), "--size must be a whole number of at least 1, not '0'"),
        (("--size", "1.5"), "--size must be a whole number of at least 1, not '1.5'"),
        (("--size", ""), "--size must be a whole number of at least 1, not ''"),
        (("--share", "1.01"), "--share must be a number from 0 to 1, not '1.01'"),
        (("--share", "nan"), "--share must be a number from 0 to 1, not 'nan'"),
        (("--rate", "0"), "--rate must be a number above 0 and at most 9, not '0'"),
        (("--rate", "inf"), "--rate must be a number above 0 and at most 9, not 'inf'"),
        (("--kind", "coarse"), "--kind must be one of plain, fine, not 'coarse'"),
    ],
)
def test_what_cannot_be_is_told_with_flag_limits_and_value(words: tuple[str, ...], says: str) -> None:
    found = typed(given, "me", *words)
    assert isinstance(found.exception, UsageError)
    assert str(found.exception) == says
    assert seen == {}


def test_a_field_without_help_is_no_flag() -> None:
    assert "No such option" in str(typed(given, "me", "--inner", "3").exception)


def test_a_struct_that_may_be_none_is_none_without_its_argument() -> None:
    assert typed(maybe, "--workers", "3").exception is None
    assert seen == {"options": None}
    assert typed(maybe, "me", "--workers", "3").exception is None
    assert seen == {"options": Options("me", 3)}


def test_a_command_takes_some_of_the_fields() -> None:
    assert "No such option" in str(typed(maybe, "me", "--share", "1").exception)
    assert "No such option" in str(typed(few, "me", "--rate", "1").exception)
    assert typed(few, "me", "--share", "1").exception is None
    assert seen == {"options": Options("me", share=1.0)}


def test_help_says_limits_defaults_and_arguments() -> None:
    said = CliRunner().invoke(make_command(given, "given"), ["--help"], terminal_width=200).output
    for text in ("Do something.", "NAME  Who.", "--size INTEGER", "[at least 1]", "[default: 0.5]", "--kind plain|fine"):
        assert text in said


def test_every_option_of_a_run_is_a_flag_of_simulate() -> None:
    """But faults, which are named by their file."""
    said = CliRunner().invoke(app, ["simulate", "--help"], terminal_width=200).output
    for name in RunOptions.__struct_fields__:
        assert ("PIPELINE" if name == "pipeline" else f"--{name.replace('_', '-')} ") in said


def commands(group: click.Group) -> Iterator[click.Command]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield from commands(found) if isinstance(found, click.Group) else [found]


def test_no_command_has_a_flag_twice() -> None:
    for command in commands(app):
        typed = [word for one in command.params for word in (*one.opts, *one.secondary_opts)]
        assert len(set(typed)) == len(typed), command.name


def test_two_structs_with_one_field_are_no_command() -> None:
    def twice(first: Options, second: Options) -> None:
        seen.update(first=first, second=second)

    twice.__annotations__ = {"first": Options, "second": Options, "return": None}
    with pytest.raises(AssertionError, match="share a name"):
        make_command(twice, "twice")


def test_help_names_the_policies_there_are() -> None:
    """Named apart from them, since help should not wait for the allocator to be imported."""
    assert set(POLICY_NAMES.split(", ")) == set(POLICIES)
