"""The command line: which commands there are. Their modules are imported when they are called, so that each command loads
what it needs and no more."""

from __future__ import annotations

import errno
import sys
from pkgutil import resolve_name
from typing import NamedTuple, NoReturn

import click

from loki_rl.errors import FailureError, UserError

HERE = "loki_rl.cli.commands"
FAILURE, USAGE, INTERRUPTED = 1, 2, 130
# What this host has not enough of is no fault of ours.
SHORTAGES = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE))


class Entry(NamedTuple):
    """A command that is made when it is asked for. function: module:function within this package."""

    function: str
    summary: str


class Table(click.Group):
    """Commands by name, in order."""

    def __init__(self, name: str, help: str, commands: dict[str, Entry | Table]) -> None:
        super().__init__(name, help=help, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
        self.table = commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self.table.get(cmd_name)
        if not isinstance(found, Entry):
            return found
        make = resolve_name("loki_rl.cli.flags:make_command")
        made: click.Command = make(resolve_name(f"{HERE}.{found.function}"), cmd_name)
        return made

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without making them."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.summary if isinstance(one, Entry) else one.help or "") for name, one in self.table.items()]
            )


app = Table("loki-rl", "Serve ML inference pipelines under a latency SLO when demand outgrows the hardware.", {
    "plan": Entry("planning:plan", "The best use of the servers for a demand."),
    "capacity": Entry("planning:capacity", "The most requests per second that the servers can serve."),
    "simulate": Entry("running:simulate", "Play a trace against a policy in the event twin."),
    "compare": Entry("comparing:compare", "Set several policies side by side on the same requests."),
    "fidelity": Entry("fidelity:fidelity", "Set a run on a plane beside the twin on the same requests."),
    "serve": Entry("living:serve", "Serve a pipeline on this host."),
    "replay": Entry("living:replay", "Send the requests of a trace to a running server."),
    "chaos": Entry("chaos:chaos", "Hurt a plane of its own, and account for every request."),
    "top": Entry("top:top", "Watch a running server."),
    "profile": Entry("measuring:profile", "Measure every model on this device."),
    "calibrate": Entry("calibrating:calibrate", "Make the twin take the times that a recorded plane took."),
    "train": Entry("learning:train", "Train an agent."),
    "evaluate": Entry("learning:evaluate", "Set agents beside other policies."),
    "doctor": Entry("doctor:doctor", "Look for what is wrong with this installation."),
    "demo": Entry("demo:demo", "The main job, end to end."),
    "keys": Table("keys", "Keys of planes and their clients.", {
        "server": Entry("keys:keys_server", "Make a plane's pair, for native clients."),
        "client": Entry("keys:keys_client", "Make a native client's pair."),
        "allow": Entry("keys:keys_allow", "Let a native client come."),
        "api": Entry("keys:keys_api", "Make an API key for HTTP and gRPC."),
    }),
    "models": Table("models", "Model repositories.", {
        "fetch": Entry("measuring:models_fetch", "Fetch the models of a pipeline."),
    }),
    "trace": Table("trace", "Demand traces.", {
        "stats": Entry("traces:trace_stats", "What a trace is like."),
        "generate": Entry("traces:trace_generate", "Make a trace."),
    }),
    "history": Table("history", "What demand was like before.", {
        "fit": Entry("histories:history_fit", "Make one of traces."),
        "show": Entry("histories:history_show", "What is believed because of one."),
    }),
    "forecaster": Table("forecaster", "The forecaster of demand.", {
        "train": Entry("learning:forecaster_train", "Train it."),
        "score": Entry("learning:forecaster_score", "Its errors on demand it never saw."),
    }),
})  # fmt: skip


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"loki-rl {version('loki-rl')}")
        except PackageNotFoundError:
            click.echo("loki-rl, not installed: run from its sources")
        ctx.exit()


app.params.append(
    click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
)


def main() -> NoReturn:
    """Entry point. One sentence and exit code 2 for a mistake in what was typed or in a file that it names, 1 for what did
    not succeed; a fault of ours ends with its traceback."""
    try:
        code = app.main(sys.argv[1:] or ["--help"], prog_name="loki-rl", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except SystemError as error:
        if not _is_interrupt(error):
            raise
        sys.exit(INTERRUPTED)
    except click.UsageError as error:
        see = "" if error.ctx is None else f"; see '{error.ctx.command_path} --help'"
        _die(error.format_message().rstrip(".") + see, USAGE)
    except click.ClickException as error:
        _die(error.format_message(), USAGE)
    except UserError as error:
        _die(str(error), FAILURE if isinstance(error, FailureError) else USAGE)
    except OSError as error:
        if error.errno not in SHORTAGES:
            raise
        _die(f"{error.strerror} for what this command has to write or open; make room, then run it again", FAILURE)
    sys.exit(code or 0)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: numba's compiled code makes a SystemError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _die(message: str, code: int) -> NoReturn:
    print(f"loki-rl: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
