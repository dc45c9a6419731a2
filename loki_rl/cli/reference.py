"""The reference of all commands as Markdown, from the same fields that the commands are made of: docs/reference.md."""

from __future__ import annotations

from collections.abc import Iterator

import click

from loki_rl.cli.flags import Argument
from loki_rl.cli.main import app
from loki_rl.reports.page import table

HEAD = """\
# Reference of the commands

Made by `make reference`: every flag is declared once, as a field of options or a parameter of its command. `run.json` holds
the options of a run under the same names, with underscores. `loki-rl COMMAND -h` says the same.

A command ends with exit code 0 when all went well, 2 for a mistake in what was typed or in a file that it names, 1 for what
did not succeed (nobody answers, a run failed, a plan is infeasible), and 130 after Ctrl-C. Results go to stdout,
all else to stderr. `eval "$(_LOKI_RL_COMPLETE=bash_source loki-rl)"` completes commands and flags in bash; `zsh_source` and
`fish_source` are for those shells. `loki-rl doctor` looks for what is wrong with an installation.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_commands(app, "loki-rl")]) + "\n"


def _commands(group: click.Group, path: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        elif command is not None:
            yield from _section(command, f"{path} {name}")


def _section(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command)
    names = [one.make_metavar(context) for one in command.params if isinstance(one, Argument)]
    yield from (f"## {' '.join([path, *names])}", "", command.help or "", "")
    yield from table(
        ("flag", "default", "meaning"), ((f"`{_name(one, context)}`", _default(one), _help(one)) for one in command.params)
    )
    yield ""


def _help(one: click.Parameter) -> str:
    return (one.explained if isinstance(one, Argument) else one.help if isinstance(one, click.Option) else None) or ""


def _name(one: click.Parameter, context: click.Context) -> str:
    if isinstance(one, Argument):
        return one.make_metavar(context)
    words = " / ".join([*one.opts, *one.secondary_opts])
    return words if isinstance(one, click.Option) and one.is_flag else f"{words} {one.make_metavar(context)}"


def _default(one: click.Parameter) -> str:
    value = one.default
    if one.required or value is None or value is False or value in ("", ()):
        return "required" if one.required else ""
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"
