"""A run as TensorBoard shows it: curves over trace time, options and figures on the hparams page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import asdict

from loki_rl.runs.result import RunResult
from loki_rl.runs.tensorboard.curves import curves
from loki_rl.runs.tensorboard.event_files import (
    Event,
    Value,
    experiment,
    layout,
    replace_events,
    scalars,
    session_end,
    session_start,
    text,
    write_once,
)
from loki_rl.runs.tensorboard.tags import DESCRIPTIONS, FIGURES, FINAL

# What runs of a log folder differ in: the hparams page shows five columns, in alphabetical order. All are in run.json.
ASKED = ("driver", "policy", "seed", "servers", "trace")
MARGINS = {
    f"{title} (mean, lowest and highest of the seeds)": (f"seeds/{tag}", f"seeds/{tag}_low", f"seeds/{tag}_high")
    for title, tag in (
        ("SLO violations", "slo_violation_ratio"),
        ("accuracy", "accuracy"),
        ("servers in use", "servers_used"),
        ("goodput [requests/s]", "goodput_rps"),
    )
}
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
    yield session_start(_session_options(done), f"{options.driver}/{options.policy}/{done.trace}/seed{options.seed}")
    yield text("run/card", _card(done), "What was played, and what came out.")
    for step, point in enumerate(points):
        yield scalars(step, point, None if step else DESCRIPTIONS)
    final = {f"final/{name}": value for name, value in asdict(done.summary).items() if value is not None}
    yield scalars(len(points), final, DESCRIPTIONS)
    yield session_end(done.duration_s)


def _overview() -> Iterator[Event]:
    """What TensorBoard needs to know once for all runs."""
    yield layout(CHARTS, MARGINS)
    yield experiment(ASKED, {f"final/{name}": FINAL[name] for name in FIGURES})


def _card(done: RunResult) -> str:
    """The run in words, as Markdown."""
    asked, found = done.options, done.summary
    figures = [(name, getattr(found, name)) for name in FIGURES]
    rows = [f"| {name} | {value:.4g} | {FINAL[name]} |" for name, value in figures if value is not None]
    what = f"**{asked.policy}** on **{done.trace}**, seed {asked.seed}, {asked.driver}: {Path(asked.pipeline).stem}"
    return "\n".join([
        f"{what} on {done.servers} servers, {done.duration_s:g} s.", "", "| figure | value | meaning |", "|---|---|---|",
        *rows, "", f"Figures of models: {done.provenance or 'not known'}. {done.synthetic}",
    ])  # fmt: skip


def _session_options(done: RunResult) -> dict[str, Value]:
    asked = done.options
    found = (asked.driver, asked.policy, asked.seed, done.servers, done.trace)
    return dict(zip(ASKED, found, strict=True))
