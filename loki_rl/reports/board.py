"""What TensorBoard shows beside curves: pictures, what happened in words, and bands over the seeds of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from loki_rl.reports.page import table
from loki_rl.reports.phases import phases
from loki_rl.reports.plots import PlotError, timeline_png
from loki_rl.reports.summary import groups
from loki_rl.runs.result import RunResult
from loki_rl.runs.tensorboard.curves import curves
from loki_rl.runs.tensorboard.event_files import Event, image, replace_events, scalars, text

# Folders beside those of runs.
COMPARISON, SEEDS = "comparison", "seeds"
# What bands are drawn of, and what it means.
BANDS = {
    "slo_violation_ratio": "share of the requests of this second that were not answered in time, 0..1",
    "accuracy": "mean accuracy of what was answered in time, 0..1",
    "servers_used": "servers in use",
    "goodput_rps": "requests answered in time",
}


def show_run(done: RunResult, folder: Path) -> None:
    """A run's picture over time and its phases, in a folder beside its curves. Without matplotlib there is no picture."""
    timeline = folder / "timeline.png"
    try:
        timeline_png([done], timeline)
        pictures = {"run/timeline": timeline}
    except PlotError:
        pictures = {}
    events = [text("run/phases", _phases(done), "What happened, from one second to another."), *_images(pictures)]
    replace_events(folder / "pictures", events)


def show_comparison(results: Sequence[RunResult], logdir: Path) -> None:
    """The pictures in the log folder, and the band of all seeds for each policy, driver and trace."""
    pictures = {f"comparison/{path.stem}": path for path in sorted(logdir.glob("*.png"))}
    if pictures:
        replace_events(logdir / COMPARISON, _images(pictures))
    for (trace, policy, driver), seeds in groups(results).items():
        if len(seeds) > 1:
            replace_events(logdir / SEEDS / driver / policy / trace, _band(seeds))


def _images(pictures: Mapping[str, Path]) -> Iterator[Event]:
    for tag, path in pictures.items():
        yield image(tag, path.read_bytes(), path.name)


def _phases(done: RunResult) -> str:
    heads = ["from s>", "to s>", "what happened", "demand/s>", "servers>", "accuracy %>", "lost %>"]
    rows = [
        (
            str(one.begin_s),
            str(one.end_s),
            one.happening,
            f"{one.demand_rps:.1f}",
            f"{one.servers[0]} to {one.servers[1]}",
            "-" if one.accuracy is None else f"{100 * one.accuracy:.2f}",
            f"{100 * one.lost:.2f}",
        )
        for one in phases(done)
    ]
    return "\n".join(table(heads, rows))


def _band(seeds: Sequence[RunResult]) -> Iterator[Event]:
    """Mean, lowest and highest of the seeds in every second that all of them have."""
    runs = [curves(done.tally, done.duration_s, cluster=done.summary.servers_mean is not None) for done in seeds]
    described = {
        f"seeds/{name}{end}": f"{what}: {which} of {len(seeds)} seeds"
        for name, what in BANDS.items()
        for end, which in (("", "mean"), ("_low", "lowest"), ("_high", "highest"))
    }
    for step, points in enumerate(zip(*runs, strict=False)):
        found: dict[str, float] = {}
        for name in BANDS:
            values = [point[f"serving/{name}"] for point in points if f"serving/{name}" in point]
            if values:
                found |= {f"seeds/{name}": float(np.mean(values))}
                found |= {f"seeds/{name}_low": min(values), f"seeds/{name}_high": max(values)}
        yield scalars(step, found, None if step else described)
