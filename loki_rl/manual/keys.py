"""Tables of a struct's fields: name, type and limits, default, meaning."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from inspect import getdoc
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from loki_rl.options import Help
from loki_rl.reports.page import table

WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", object: "any"}
LIMITS = {"gt": "above {}", "ge": "at least {}", "lt": "below {}", "le": "at most {}"}


def section(title: str, kind: type[Struct]) -> Iterator[str]:
    """A struct as a section: its docstring, then a row a field."""
    yield from (f"### {title}", "", " ".join((getdoc(kind) or "").split()), "")
    yield from field_table(kind)
    yield ""


def field_table(kind: type[Struct], names: Sequence[str] = ()) -> list[str]:
    """A row a field; names: only of these. Where no field says what it means there is no column for that."""
    hints = get_type_hints(kind, include_extras=True)
    rows = [
        (f"`{one.name}`", type_words(hints[one.name]), _default(one), _meaning(hints[one.name]))
        for one in fields(kind)
        if not names or one.name in names
    ]
    heads = ("key", "type", "default", "meaning")
    told = any(row[3] for row in rows)
    return table(heads if told else heads[:3], [row if told else row[:3] for row in rows])


def type_words(hint: Any) -> str:
    """A type in words, with its limits."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [_limits(one) for one in parts[1:] if isinstance(one, Meta)]
        return ", ".join([type_words(parts[0]), *filter(None, limits)])
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(part) for part in parts if part is not type(None))
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is dict:
        return "table" if parts[1] is object else f"table of {type_words(parts[0])}: {type_words(parts[1])}"
    if origin in (list, tuple):
        return f"list of {type_words(parts[0])}"
    return WORDS.get(hint) or f"`{hint.__name__}`"


def _limits(meta: Meta) -> str:
    said = [text.format(f"{value:g}") for key, text in LIMITS.items() if (value := getattr(meta, key)) is not None]
    if meta.min_length is not None:
        same = meta.min_length == meta.max_length
        said.append(f"{meta.min_length} of them" if same else f"{meta.min_length} to {meta.max_length} of them")
    return ", ".join(said)


def _default(one: FieldInfo) -> str:
    if one.required:
        return "required"
    value = one.default if one.default is not NODEFAULT else None
    if value is None or value == "" or isinstance(value, Struct):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != () else ""


def _meaning(hint: Any) -> str:
    found = [one.text for one in get_args(hint)[1:] if isinstance(one, Help)] if get_origin(hint) is Annotated else []
    return found[0] if found else ""
