"""A run as TensorBoard shows it: curves over trace time, options and figures on the hparams page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import asdict

from loki_rl.core.requests.ledger import Summary
from loki_rl.runs.curves import curves
from loki_rl.runs.event_files import (
    Event,
    Value,
    experiment,
    layout,
    replace_events,
    scalars,
    session_end,
    session_start,
    write_once,
)
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult

CHARTS = {
    "SLO violations (share of the requests that arrived in the second)": ["serving/slo_violation_ratio"],
    "accuracy (of those answered in time)": ["serving/accuracy"],
    "servers in use": ["serving/servers_used", "policy/planned_servers"],
    "demand and goodput [requests/s]": ["serving/demand_rps", "serving/goodput_rps", "policy/planned_demand_rps"],
}


def write_events(done: RunResult, folder: Path, logdir: Path) -> None:
    """The event file of a run in its folder, and that of all runs in the log folder."""
    write_overview(logdir)
    replace_events(folder, _events(done))


def write_overview(logdir: Path) -> None:
    """What all runs of a log folder are shown by."""
    logdir.mkdir(parents=True, exist_ok=True)
    write_once(logdir, _overview())


def _events(done: RunResult) -> Iterator[Event]:
    points = curves(done.tally, done.duration_s, cluster=done.summary.servers_mean is not None)
    options = done.options
    yield session_start(_session_options(done), group=f"{options.driver}/{options.policy}/{done.trace}")
    for step, point in enumerate(points):
        yield scalars(step, point)
    final = {f"eval/{name}": value for name, value in asdict(done.summary).items() if value is not None}
    yield scalars(len(points), final)
    yield session_end(done.duration_s)


def _overview() -> Iterator[Event]:
    """What TensorBoard needs to know once for all runs."""
    yield layout("serving", CHARTS)
    names = ["trace", *(name for name in RunOptions.__struct_fields__ if name not in {"trace", "seed"})]
    yield experiment(names, [f"eval/{name}" for name in Summary.__struct_fields__])


def _session_options(done: RunResult) -> dict[str, Value]:
    """The seed is left out: seeds are samples of the same run, which the hparams page then averages."""
    options = msgspec.to_builtins(done.options) | {"trace": done.trace, "servers": done.servers}
    del options["seed"]
    return {name: value for name, value in options.items() if isinstance(value, (str, int, float, bool))}
