"""The command that looks for what is wrong with this installation: doctor."""

from __future__ import annotations

from itertools import chain

import click
import msgspec
from rich.markup import escape

from loki_rl.cli import terminal
from loki_rl.cli.flags import Json
from loki_rl.doctor.findings import Finding
from loki_rl.doctor.host import host
from loki_rl.doctor.packages import packages

MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "wrong": "[red]wrong[/]"}


def doctor(as_json: Json = False) -> None:
    """Look at Python, packages, devices, ports and folders, and say what is wrong and what to do about it.

    Ends with exit code 1 where something will fail."""
    found = list(chain(packages(), host()))
    terminal.say({"findings": msgspec.to_builtins(found)}, as_json, lambda: _show(found))
    if any(one.level == "wrong" for one in found):
        raise click.exceptions.Exit(1)


def _show(found: list[Finding]) -> None:
    for one in found:
        terminal.shown(f"{MARKS[one.level]:<15} {escape(f'{one.what}: {one.found}')}")
        if one.advice:
            terminal.line(f"      -> {one.advice}")
