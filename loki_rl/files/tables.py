"""Strict reading of tables (key -> value) that people write, and the wording of what is wrong in them."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import yaml

from loki_rl.errors import UserError

T = TypeVar("T", bound=msgspec.Struct)

# Of a text file. YAML takes about a second for every 200 KB, and files of people have a few.
MAX_BYTES, MAX_YAML_BYTES = 64 << 20, 256 << 10

_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
    "null": "nothing",
}


class ConfigError(UserError):
    """A file that a person wrote is wrong; the message is one sentence: where, what, what to do."""


def read_text(path: Path, most_bytes: int = MAX_BYTES) -> str:
    """The text of a file. Raises ConfigError if it cannot be read as UTF-8 text, or is larger than any that is meant."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
        require(len(data) <= most_bytes, str(path), f"is larger than {most_bytes >> 10} KB; name the file that is meant")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def read_yaml(path: Path) -> object:
    """The content of a YAML file. Raises ConfigError, with the line, if it is malformed, holds a key twice, or what no file
    of ours needs (see _Loader)."""
    text = read_text(path, MAX_YAML_BYTES)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: malformed YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: malformed YAML: {str(error).splitlines()[0]}") from error


def table(data: object, kind: type[T], where: str) -> T:
    """Convert a parsed table into a Struct. Raises ConfigError that names the key at fault and `where` it stands."""
    keyed(data, where)
    known = kind.__struct_encode_fields__
    for key in data:  # type: ignore[attr-defined]
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{nearest(key, known)}")
    return convert(data, kind, where, known)


def convert(data: object, kind: type[T], where: str, known: Iterable[str]) -> T:
    """Like `table` for a Struct whose parts are strict themselves; known: the keys to suggest from."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{wording(error, where, known)}{_choices(error, kind)}") from error


def keyed(data: object, where: str) -> dict[str, object]:
    """The data as a table with text keys. Raises ConfigError if it is anything else."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a table of keys and values, got {_word(data)}")
    for key in data:
        if not isinstance(key, str):
            raise ConfigError(f"{where}: the key {key!r} is not text; put it in quotes")
    return data


def require(condition: bool, where: str, message: str) -> None:
    """Raise ConfigError unless the condition holds."""
    if not condition:
        raise ConfigError(f"{where}: {message}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known are {', '.join(names)}" if names else "; there are none"


def wording(error: msgspec.ValidationError, where: str, known: Iterable[str]) -> str:
    """One sentence for a failed conversion."""
    what, _, at = str(error).partition(" - at ")
    at = at.replace("`key` in", "a key of").replace("`", "").replace("$.", "").replace("$", "")
    place = f"{where}, at '{at}'" if at else where
    name = re.search(r"field `(.+)`", what)
    if name and "unknown" in what:
        return f"{place}: unknown key '{name[1]}'{nearest(name[1], known)}"
    if name:
        return f"{place}: the key '{name[1]}' is missing; add it"
    plain = re.sub(r"`([^`]*)`", lambda match: _phrase(match[1]), what)
    return f"{place}: {plain[:1].lower()}{plain[1:]}"


def _choices(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """The end of a sentence about a word that a key does not take: those that it does."""
    what, _, key = str(error).partition(" - at `$.")
    if not what.startswith("Invalid enum value"):
        return ""
    hint = get_type_hints(kind).get(key.rstrip("`"))
    words = [word for part in (hint, *get_args(hint)) if get_origin(part) is Literal for word in get_args(part)]
    return f"; it is one of {', '.join(words)}" if words else ""


def _phrase(types: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | "))


def _word(data: object) -> str:
    if data is None:
        return _WORDS["null"]
    return _WORDS["array"] if isinstance(data, list) else _WORDS.get(type(data).__name__, type(data).__name__)


def _key_fault(key: yaml.Node, seen: set[str]) -> str | None:
    if not isinstance(key, yaml.ScalarNode):
        return "a key must be text"
    if key.tag in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"}:
        return f"the key '{key.value}' is no text in YAML; put it in quotes"
    return f"the key '{key.value}' stands twice" if key.value in seen else None


def _refused(node: Any, message: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what YAML lets pass: a key given twice, `no` as a key, numbers that are not finite; and
    aliases, of which a few lines make more than a memory holds, and tags, which say what type a value has."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None:
            raise _refused(event, f"anchors and aliases ('{event.anchor}') are not supported; write the value out")
        if getattr(event, "tag", None) is not None:
            raise _refused(event, f"the tag '{event.tag}' is not supported; leave it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            fault = _key_fault(key, seen)
            if fault:
                raise _refused(key, fault)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = float(super().construct_yaml_float(node))
        if not -1e300 < value < 1e300:
            raise _refused(node, f"{node.value} is not a finite number")
        return value


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
