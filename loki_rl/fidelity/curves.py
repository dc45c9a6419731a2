"""Plane and twin as TensorBoard shows them beside each other: the same tags in every span of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loki_rl.fidelity.figures import Figure
from loki_rl.fidelity.measure import Fidelity
from loki_rl.fidelity.observation import Floats, Sums
from loki_rl.runs.tensorboard.event_files import Event, replace_events, scalars

PLANE, TWIN = "plane", "twin"
# Figure -> its tag and unit in the curves of any run.
TAGS = {
    "violations": ("serving/slo_violation_ratio", 1.0),
    "accuracy": ("serving/accuracy", 1.0),
    "servers": ("serving/servers_used", 1.0),
    "loads": ("serving/switches", 1.0),
}


def write_curves(found: Fidelity, folder: Path) -> None:
    """A run of TensorBoard each for the plane and for the twin's first play, in folders of these names. Raises OSError."""
    for name, sums in ((PLANE, found.plane), (TWIN, found.twins[0])):
        (folder / name).mkdir(parents=True, exist_ok=True)
        replace_events(folder / name, _events(found, sums))


def over_time(figure: Figure, sums: Sums) -> Floats:
    """The figure of every span, in its own unit; where there is none (nobody came) the one before."""
    values = figure.scale * figure.of(sums)
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values))
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return values[np.where(last < 0, known.argmax(), last)]


def _events(found: Fidelity, sums: Sums) -> Iterator[Event]:
    width_s = found.span.width_s
    lines = {"serving/demand_rps": sums["arrivals"][:, 0] / width_s, "serving/goodput_rps": sums["ok"][:, 0] / width_s}
    for one in found.found:
        figure = one.figure
        tag, scale = TAGS.get(figure.name, (f"fidelity/{figure.name.replace(' ', '_')}", figure.scale))
        lines[tag] = over_time(figure, sums) * scale / figure.scale
    for number in range(found.span.count):
        yield scalars(round(number * width_s), {tag: float(line[number]) for tag, line in lines.items()})
