"""The command line: what users type, and what they read. The only package that sees all others; commands import them lazily,
so that each loads what it needs and no more."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, NoReturn

import typer

from loki_rl.cli import learning, living, measuring, planning, running
from loki_rl.errors import UserError

app = typer.Typer(
    name="loki-rl",
    help="Serve ML inference pipelines under a latency SLO when demand outgrows the hardware.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Model repositories.", no_args_is_help=True, rich_markup_mode=None)
trace_app = typer.Typer(help="Demand traces.", no_args_is_help=True, rich_markup_mode=None)
forecaster_app = typer.Typer(help="The forecaster of demand.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")
app.add_typer(trace_app, name="trace")
app.add_typer(forecaster_app, name="forecaster")

for command in (
    planning.plan, planning.capacity, running.simulate, running.compare, living.serve, living.replay,
    living.top, measuring.profile, learning.train, learning.evaluate, running.demo,
):  # fmt: skip
    app.command()(command)
models_app.command("fetch")(measuring.models_fetch)
trace_app.command("stats")(measuring.trace_stats)
trace_app.command("generate")(measuring.trace_generate)
forecaster_app.command("train")(learning.forecaster_train)
forecaster_app.command("score")(learning.forecaster_score)


def main() -> NoReturn:
    """Entry point. A mistake of the user ends with exit code 2 and one sentence; a fault of ours with its traceback."""
    try:
        code = _made()(sys.argv[1:] or ["--help"], standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        _die(_sentence(error))
    sys.exit(code or 0)


@cache
def _made() -> Any:
    """All commands: typer makes them of their signatures, which takes longer than to carry out many of them."""
    return typer.main.get_command(app)


def _sentence(error: Exception) -> str:
    """What a mistake of the user is told. Raises the error again if it is a fault of ours."""
    if hasattr(error, "format_message"):  # typer's own; it keeps the class to itself
        return str(error.format_message())
    if isinstance(error, UserError):
        return str(error)
    raise error


def _die(message: str) -> NoReturn:
    print(f"loki-rl: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
