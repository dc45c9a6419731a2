"""Commands made of functions: a parameter with a Help, and every field with one of a parameter that is a struct, becomes a
flag, which is checked before the function is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import click
import msgspec
from click.shell_completion import CompletionItem
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields

from loki_rl.errors import UserError
from loki_rl.options import Help
from loki_rl.ray_cluster import LauncherName, connect

Json = Annotated[bool, Help("Print one JSON object and nothing else.", "--json")]
Logdir = Annotated[Path | None, Help("Write a run folder for TensorBoard below this folder.")]
FaultsFile = Annotated[
    Path | None, Help("YAML file of what goes wrong in the twin: crashes, slow servers ... (docs/faults.md)", "--faults")
]

RecordingFile = Annotated[
    Path | None,
    Help(
        "Recording of a plane, or its run folder: play what it was asked, as it was run but for the flags given.",
        "--journal",
    ),
]

WORDS = {int: "a whole number", float: "a number"}
METAVARS = {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}


class UsageError(UserError):
    """Flags that do not fit together; the message says which and what to do."""


class Fields(NamedTuple):
    """Which fields of a struct are flags of a command (default: all that have a Help), and other names for some."""

    only: Collection[str] = ()
    without: Collection[str] = ()
    flags: Mapping[str, str] = {}

    def __contains__(self, name: object) -> bool:
        return name not in self.without and (not self.only or name in self.only)


class Kind(NamedTuple):
    """An annotation taken apart. base: a single value, with its limits if it has any; many: a list of them."""

    base: Any
    limits: Meta
    help: Help | None
    fields: Fields
    optional: bool
    many: bool

    @property
    def bounds(self) -> str:
        """What a value may be, in words; empty if everything."""
        if get_origin(self.base) is Literal:
            return f"one of {', '.join(get_args(self.base))}"
        known = self.limits
        if known.ge is not None and known.le is not None:
            return f"from {known.ge} to {known.le}"
        words = {"at least": known.ge, "above": known.gt, "at most": known.le}
        return " and ".join(f"{word} {value}" for word, value in words.items() if value is not None)

    @property
    def wanted(self) -> str:
        of = "of " if self.bounds.startswith("at ") else ""
        return f"{WORDS.get(self.base, '')} {of}{self.bounds}".strip()


def kind_of(annotation: Any) -> Kind:
    """What a value of this type may be; the outermost Help counts."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind = kind_of(parts[0])
        for extra in parts[1:]:
            match extra:
                case Help():
                    kind = kind._replace(help=extra)
                case Fields():
                    kind = kind._replace(fields=extra)
                case Meta():
                    kind = kind._replace(limits=extra)
        return kind
    if origin in (Union, UnionType):
        return kind_of(next(part for part in parts if part is not NoneType))._replace(optional=True)
    if origin in (list, tuple):
        return kind_of(parts[0])._replace(many=True)
    return Kind(annotation, Meta(), None, Fields(), optional=False, many=False)


class Value(click.ParamType):  # type: ignore[type-arg]  # the oldest that will do is not generic
    """One value, checked as in run.json; what is wrong is told with flag, limits and value."""

    def __init__(self, flag: str, kind: Kind) -> None:
        self.flag, self.kind = flag, kind
        self.name = "|".join(get_args(kind.base)) if get_origin(kind.base) is Literal else METAVARS[kind.base]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What may stand here, for the shell."""
        if get_origin(self.kind.base) is Literal:
            return [CompletionItem(name) for name in get_args(self.kind.base) if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file")] if self.kind.base in (Path, str) else []

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or self.kind.base is str:
            return value
        try:
            checked = Annotated[self.kind.base, self.kind.limits] if self.kind.limits != Meta() else self.kind.base
            # Python reads .5, too.
            read = float(value) if self.kind.base is float else value
            found = msgspec.convert(read, checked, strict=False, dec_hook=lambda kind, text: kind(text))
        except (msgspec.ValidationError, ValueError):
            found = None
        if found is None or (isinstance(found, float) and not isfinite(found)):
            raise UsageError(f"{self.flag} must be {self.kind.wanted}, not '{value}'")
        return found


class Argument(click.Argument):
    """With its help, which click's own has not."""

    def __init__(self, *, help: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.explained = help


class Command(click.Command):
    """With its arguments among what is explained."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(one.make_metavar(ctx), one.explained) for one in self.params if isinstance(one, Argument)]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)


def make_command(function: Callable[..., None], name: str) -> Command:
    """The command that calls the function with what was typed. A struct that may be None is None where an argument that it
    needs was not given."""
    hints = get_type_hints(function, include_extras=True)
    found: dict[str, click.Parameter] = {}
    structs: dict[str, tuple[Kind, list[str]]] = {}
    for one in inspect.signature(function).parameters.values():
        kind = kind_of(hints[one.name])
        if isinstance(kind.base, type) and issubclass(kind.base, Struct):
            mine = _flags(kind)
            structs[one.name] = kind, list(mine)
        else:
            default = NODEFAULT if one.default is inspect.Parameter.empty else one.default
            mine = {one.name: _parameter(one.name, kind, default, kind.help or Help(""))}
        assert not found.keys() & mine, f"two flags of {name} share a name: {found.keys() & mine}"
        found |= mine

    def call(**values: Any) -> None:
        made = {
            parameter: _made(kind, {name: values.pop(name) for name in mine}) for parameter, (kind, mine) in structs.items()
        }
        function(**made, **values)

    return Command(name, params=list(found.values()), help=inspect.getdoc(function), callback=call)


def _made(kind: Kind, values: dict[str, Any]) -> Struct | None:
    if kind.optional and any(
        values.get(one.name) is None for one in fields(kind.base) if one.required and one.name in values
    ):
        return None
    made: Struct = kind.base(**values)
    return made


def _flags(kind: Kind) -> dict[str, click.Parameter]:
    """Of the fields of a struct."""
    hints = get_type_hints(kind.base, include_extras=True)
    found = {}
    for field in fields(kind.base):
        own = kind_of(hints[field.name])
        if own.help is not None and field.name in kind.fields:
            help = Help(own.help.text, kind.fields.flags.get(field.name, own.help.flag))
            default = None if kind.optional and field.required else field.default
            found[field.name] = _parameter(field.name, own, default, help)
    return found


def _parameter(name: str, kind: Kind, default: Any, help: Help) -> click.Parameter:
    flag = help.flag or f"--{name.replace('_', '-')}"
    if kind.base is bool:
        flags = f"{flag}/--no-{flag[2:]}" if default else flag
        return click.Option([name, flags], is_flag=True, default=default, help=help.text)
    text = f"{help.text} [{kind.bounds}]" if kind.bounds and get_origin(kind.base) is not Literal else help.text
    rest: dict[str, Any] = {"required": default is NODEFAULT, "type": Value(flag, kind), "help": text}
    rest |= {} if default is NODEFAULT else {"default": default}
    if flag.startswith("-"):
        return click.Option([name, flag], multiple=kind.many, show_default=default not in (None, "", (), NODEFAULT), **rest)
    return Argument(param_decls=[name], metavar=flag.upper() + "..." * kind.many, nargs=-1 if kind.many else 1, **rest)


def split_names(flag: str, text: str, allowed: Collection[str] = ()) -> list[str]:
    """What a flag lists, separated by commas. Raises UsageError for nothing, or for a name that is not allowed."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{flag} names nothing; separate several by commas")
    for name in names:
        if allowed and name not in allowed:
            raise UsageError(f"{flag} must be one of {', '.join(allowed)}, not '{name}'")
    return names


def typed(names: Collection[str]) -> dict[str, Any]:
    """Those of the parameters that were typed, and what."""
    context = click.get_current_context()
    sources = ((name, context.get_parameter_source(name)) for name in context.params if name in names)
    return {name: context.params[name] for name, source in sources if source is not None and source.name == "COMMANDLINE"}


def alone(why: str, heard: Collection[str]) -> None:
    """Raise UsageError for every other flag that was typed: it would not be heard."""
    for name in typed(click.get_current_context().params.keys() - set(heard)):
        flag = name if name == "pipeline" else f"--{name.replace('_', '-')}"
        raise UsageError(f"{why}; leave {flag} out")


def cluster_of(launcher: LauncherName, address: str) -> str:
    """The address of the Ray cluster that was asked for, which is there; empty for this host. Raises ClusterError, or
    UsageError for flags that would not be heard."""
    if launcher == "ray":
        if typed(["jobs"]):
            raise UsageError("--launcher ray uses the cores of the cluster; leave --jobs out")
        connect(address)
        return address
    if typed(["address"]):
        raise UsageError("--address is that of a Ray cluster; add --launcher ray")
    return ""
