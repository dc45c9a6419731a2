"""Commands for a plane that stays up: serve and replay."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from msgspec.structs import replace

from loki_rl.cli import terminal
from loki_rl.cli.flags import Fields, Json, Logdir, cluster_of
from loki_rl.cli.provenance import tell_profile
from loki_rl.cli.results import finish, need_models
from loki_rl.files.user_folders import writable
from loki_rl.options import Help
from loki_rl.runs.live import ServeOptions, beside, serve_until_stopped
from loki_rl.runs.options import RunOptions
from loki_rl.runs.replays import replay_trace
from loki_rl.serving.observe.logs import LogOptions
from loki_rl.serving.observe.span_options import SpanOptions
from loki_rl.serving.security.credentials import Credentials
from loki_rl.serving.security.guards import Guards
from loki_rl.traces.trace import TraceOptions

TRACE = ("trace", *TraceOptions.__struct_fields__)


def serve(
    run: Annotated[RunOptions, Fields(without=(*TRACE, "driver"), flags={"servers": "--workers"})],
    options: ServeOptions,
    logs: LogOptions,
    traces: SpanOptions,
    guards: Guards,
    journal: Annotated[Path | None, Help("Keep a journal of every process in this folder.")] = None,
    logdir: Logdir = None,
    as_json: Json = False,
) -> None:
    """Serve a pipeline on this host, or on the hosts of a Ray cluster, until SIGTERM or Ctrl-C."""
    writable(logdir)
    cluster_of(options.launcher, options.address)
    need_models(run, options.engine)
    tell_profile(run.file)
    # stdout is for the result when it is JSON.
    announce = terminal.note if as_json else terminal.line
    options = replace(options, logs=logs, traces=traces, guards=guards)
    done = serve_until_stopped(run, options, journal, announce, logdir)
    if options.shadow and logdir is not None:
        finish(done, logdir, as_json, shadows=beside(options, done, logdir))
    else:
        finish(done, logdir, as_json)


def replay(
    url: Annotated[str, Help("http://HOST:PORT (or https), tcp://HOST:PORT or ipc://PATH.")],
    run: Annotated[RunOptions, Fields(only=("pipeline", *TRACE, "slo_ms", "seed"), flags={"pipeline": "--pipeline"})],
    credentials: Credentials,
    payloads: Annotated[
        Path | None, Help("Folder of files to send, by their names; .npy holds an array (default: those of the workload).")
    ] = None,
    logdir: Logdir = None,
    as_json: Json = False,
) -> None:
    """Send a trace's requests to a running server, open loop, and account for every one.

    A pipeline of which there is no file here goes by the name that the server has for it."""
    writable(logdir)
    with terminal.progress_bars() as bars:
        done = replay_trace(url, run, payloads, credentials, partial(bars, "sending requests"))
    finish(done, logdir, as_json)
