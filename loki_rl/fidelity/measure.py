"""The whole comparison of a recorded run: the twin's plays, figures, verdicts."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.fidelity.bootstrap import LEVEL
from loki_rl.fidelity.comparison import Contrast, Told, block_s, contrasts, overall, told
from loki_rl.fidelity.observation import Span, Sums, observe
from loki_rl.fidelity.twin import Recorded, overloaded, play
from loki_rl.fidelity.verdict import EMULATED, REAL, Answer, Bars
from loki_rl.flight.columns import Flight
from loki_rl.runs.options import RunOptions

PLAYS = 5


class Fidelity(Struct):
    """What came out. options: of the run; block_s: length of what was drawn anew [s]; overloaded: whether demand exceeded
    what the best models can serve; plane, twins: what was seen, per span; found: the figures, rows: what is said of them."""

    options: RunOptions
    block_s: float
    overloaded: bool
    verdict: Answer
    rows: list[Told]
    found: list[Contrast]
    span: Span
    plane: Sums
    twins: list[Sums]


def measure(
    run: Recorded, bars: Bars | None = None, plays: int = PLAYS, progress: Callable[[str, float], None] | None = None
) -> Fidelity:
    """Play the twin and compare. bars: those that are not the usual ones of such a run. plays: of the twin, each with
    another seed."""
    usual = EMULATED if run.options.driver == "emulated" else REAL
    held = usual if bars is None else usual.override(bars)
    twins = []
    for number in range(plays):
        twins.append(_seen(run, play(run, run.options.seed + number)))
        if progress is not None:
            progress(f"twin, {plays} plays", (number + 1) / plays)
    plane = _seen(run, run.flight)
    found = contrasts(run.cluster, plane, twins, run.span.width_s)
    crowded = overloaded(run)
    rows = told(found, held, crowded)
    return Fidelity(
        run.options, block_s(run.cluster), crowded, overall(rows), rows, found, run.span, plane, twins
    )  # fmt: skip


def document(found: Fidelity) -> dict[str, object]:
    """The JSON of a comparison."""
    options = found.options
    return {
        "pipeline": options.pipeline,
        "trace": options.trace,
        "policy": options.policy,
        "driver": options.driver,
        "seed": options.seed,
        "verdict": found.verdict,
        "plays": len(found.twins),
        "block_s": found.block_s,
        "level": LEVEL,
        "overloaded": found.overloaded,
        "figures": [_row(row) for row in found.rows],
    }


def _row(row: Told) -> dict[str, object]:
    difference = row.difference
    return {
        "name": row.name,
        "unit": row.unit,
        "plane": row.plane,
        "twin": row.twin,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "bar": row.bar,
        "verdict": row.verdict,
        "distance": row.distance,
        "own_distance": row.own_distance,
    }


def _seen(run: Recorded, flight: Flight) -> Sums:
    """Each by its own clock."""
    assert flight.origin is not None
    return observe(flight, run.cluster.pipeline, replace(run.span, origin=flight.origin))
