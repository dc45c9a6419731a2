"""What others build on is explained where it is defined: every public name says what it takes, in which shapes and units,
and what it raises."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from math import inf
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, get_type_hints

import gymnasium
import numpy as np
import pytest
from msgspec import Struct

import loki_rl
from loki_rl.cli.flags import Kind, kind_of
from loki_rl.env import IDS

PAGES = sorted((Path(__file__).parents[1] / "docs").rglob("*.md"))
# What a number counts: its name ends with it, its limits are those of a share, or what follows its name says it.
NAMED_UNIT = re.compile(r"_(s|ms|rps|fraction|ratio)$")
UNIT = re.compile(r"\[[^\]]+\]|0\.\.1|\bshare\b|\btimes\b|\bunit\b|\bof each one\b", re.IGNORECASE)
SHAPE = re.compile(r"\[|\bshape\b")
# A docstring may leave the rest to another one.
REFERENCE = re.compile(r"\bas\s+in\s+`([\w.]+)`")
# How far behind a name its explanation may go on [characters].
NEAR = 200


class Public(NamedTuple):
    """A name that others write, what it stands for, and the docstrings that explain it."""

    name: str
    found: Any
    told: str

    @property
    def parameters(self) -> dict[str, Kind]:
        """What it is called with, or the fields that it has."""
        if isinstance(self.found, type) and issubclass(self.found, Struct):
            return {name: kind_of(hint) for name, hint in hints(self.found).items() if name in self.found.__struct_fields__}
        function = inspect.getattr_static(self.found, "__init__") if isinstance(self.found, type) else self.found
        if not isinstance(function, FunctionType):
            return {}
        known = hints(function)
        taken = [one for one in inspect.signature(function).parameters.values() if one.name in known]
        return {one.name: kind_of(known[one.name]) for one in taken}


def hints(found: Any) -> dict[str, Any]:
    """Annotations; pandas is there for type checkers only."""
    return get_type_hints(found, localns={"DataFrame": object}, include_extras=True)


def named(path: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    return getattr(import_module(module), name)


def roots() -> dict[str, Any]:
    """What the package exports, its environments, and what pages show of the code: extension points among it."""
    shown = [path for page in PAGES for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)]
    specs = [gymnasium.spec(name) for name in IDS]
    environments = [str(entry) for spec in specs for entry in (spec.entry_point, spec.vector_entry_point)]
    return {f"loki_rl.{name}": getattr(loki_rl, name) for name in loki_rl.__all__} | {
        path: named(path) for path in (*shown, *environments)
    }


def members(kind: type) -> Iterator[tuple[str, FunctionType]]:
    """Methods and properties that the class defines for others."""
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else inspect.unwrap(getattr(value, "__func__", value))
        if not name.startswith("_") and isinstance(function, FunctionType):
            yield name, function


def docstring(found: Any) -> str:
    """Its own; of a class also that of its constructor, and of the classes of ours that it extends."""
    if not isinstance(found, type):
        return found.__doc__ or ""
    ours = [kind for kind in found.__mro__ if kind.__module__.startswith("loki_rl")]
    return " ".join(part.__doc__ or "" for kind in ours for part in (kind, vars(kind).get("__init__")))


def public() -> list[Public]:
    """Every name once, with its members."""
    once = {id(found): (name, found) for name, found in roots().items()}
    short = {name.rpartition(".")[2]: docstring(found) for name, found in once.values()}
    rows: list[Public] = []
    for name, found in once.values():
        text = docstring(found)
        of_kind = dict(members(found)) if isinstance(found, type) else {}
        near = short | {member: docstring(function) for member, function in of_kind.items()}
        rows.append(Public(name, found, with_references(text, near)))
        for member, function in of_kind.items():
            rows.append(Public(f"{name}.{member}", function, with_references(f"{docstring(function)} {text}", near)))
    return rows


def with_references(text: str, known: dict[str, str]) -> str:
    return " ".join([text, *(known.get(name.rpartition(".")[2], "") for name in REFERENCE.findall(text))])


PUBLIC = public()
each = pytest.mark.parametrize("one", PUBLIC, ids=[one.name for one in PUBLIC])


@each
def test_everything_has_a_docstring_of_its_own(one: Public) -> None:
    assert one.found.__doc__


@each
def test_every_parameter_is_explained(one: Public) -> None:
    unsaid = [
        name for name, kind in one.parameters.items() if kind.help is None and not re.search(rf"\b{name}\b", one.told)
    ]
    assert not unsaid


def said_of(one: Public, name: str, kind: Kind) -> str:
    """What stands behind each mention of a parameter."""
    text = " ".join(one.told.split())
    after = (text[match.end() : match.end() + NEAR] for match in re.finditer(rf"\b{name}\b", text))
    return " ".join([*after, "" if kind.help is None else kind.help.text])


@each
def test_every_number_has_its_unit(one: Public) -> None:
    bare = [
        name
        for name, kind in one.parameters.items()
        if kind.base is float
        and not NAMED_UNIT.search(name)
        and (kind.limits.ge, kind.limits.le or inf) != (0, 1)
        and not UNIT.search(said_of(one, name, kind))
    ]
    assert not bare


@each
def test_every_array_has_its_shape(one: Public) -> None:
    arrays = [name for name, kind in one.parameters.items() if getattr(kind.base, "__origin__", None) is np.ndarray]
    assert not arrays or SHAPE.search(one.told)


@each
def test_every_error_that_it_raises_itself_is_named(one: Public) -> None:
    if not isinstance(one.found, FunctionType):
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(one.found)))
    raised = {ast.unparse(node.exc).partition("(")[0] for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc}
    assert all(error.rpartition(".")[2] in one.told for error in raised)
