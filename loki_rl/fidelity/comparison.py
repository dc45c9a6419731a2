"""Plane beside twin: every figure of both, how far they are apart, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from msgspec import Struct

from loki_rl.core.options import ClusterOptions
from loki_rl.core.servers.rollout import HOLD_S
from loki_rl.core.servers.servers import Servers
from loki_rl.fidelity.bootstrap import DRAWS, block_draws, interval, resample
from loki_rl.fidelity.figures import Figure, distance, figures
from loki_rl.fidelity.observation import Floats, Sums
from loki_rl.fidelity.verdict import Answer, Bars, together, verdict
from loki_rl.reports.statistics import Interval


class Contrast(Struct):
    """One figure. plane, twin: of the run, and the mean of the twin's plays; NaN if there is none. difference: with its
    interval. draws: what the interval was made of. distance: of whole distributions (Wasserstein), and
    own_distance: of the twin's plays from one another, None where there are none."""

    figure: Figure
    plane: float
    twin: float
    difference: Interval
    draws: Floats
    distance: float | None = None
    own_distance: float | None = None


class Told(Struct, frozen=True):
    """What is said of one figure: as in Contrast, with the bar it was held against and the verdict."""

    name: str
    unit: str
    plane: float
    twin: float
    difference: Interval
    bar: float | None
    verdict: Answer | None
    distance: float | None
    own_distance: float | None


def block_s(cluster: ClusterOptions) -> float:
    """How far back [s] what happens in a second has its reasons: a plan is made, awaited, loaded, and lasts until requests
    that met the one before have ended."""
    return cluster.interval_s + HOLD_S + Servers(cluster).slowest_load_s + 2 * cluster.pipeline.slo_s


def contrasts(cluster: ClusterOptions, plane: Sums, twins: Sequence[Sums], span_s: float, seed: int = 0) -> list[Contrast]:
    """The figures that either has. twins: the twin's plays of the same arrivals, each with another seed.

    A draw takes blocks of the same spans from both, and of the twin's plays as many, drawn again, too.
    """
    spans = len(plane["arrivals"])
    rng = np.random.default_rng(seed)
    weights = block_draws(spans, max(1, ceil(block_s(cluster) / span_s)), DRAWS, rng)
    shares = rng.multinomial(len(twins), [1 / len(twins)] * len(twins), DRAWS) / len(twins)
    drawn = resample(plane, weights), _mean_of(twins, weights, shares)
    whole, evenly = np.ones((1, spans)), np.full((1, len(twins)), 1 / len(twins))
    seen = resample(plane, whole), _mean_of(twins, whole, evenly)
    plays = [resample(twin, whole) for twin in twins]
    found = [_contrast(figure, *seen, *drawn) for figure in figures(cluster.pipeline)]
    known = [one for one in found if np.isfinite(one.plane) or np.isfinite(one.twin)]
    for one in known:
        if one.figure.classes:
            _measure_distances(one, seen[0], plays)
    return known


def _mean_of(plays: Sequence[Sums], weights: Floats, shares: Floats) -> Sums:
    """Sums of spans drawn as often as the weights [draws, spans] say, of a mix of plays: shares [draws, plays]."""
    found = {name: np.zeros((len(weights), column.shape[1])) for name, column in plays[0].items()}
    for number, play in enumerate(plays):
        for name, sums in resample(play, weights).items():
            found[name] += shares[:, number, None] * sums
    return found


def _contrast(figure: Figure, plane: Sums, twin: Sums, drawn_plane: Sums, drawn_twin: Sums) -> Contrast:
    mine, its = figure.of(plane), figure.of(twin)
    scale = 100 if figure.unit == "relative" else figure.scale
    draws = scale * figure.difference(figure.of(drawn_plane), figure.of(drawn_twin))
    found = interval(scale * float(figure.difference(mine, its)[0]), draws)
    return Contrast(figure, figure.scale * float(mine[0]), figure.scale * float(its[0]), found, draws)


def _measure_distances(one: Contrast, plane: Sums, plays: Sequence[Sums]) -> None:
    name, values = one.figure.classes, one.figure.values
    counts = [play[name][0] for play in plays]
    one.distance = float(np.mean([distance(plane[name][0], its, values) for its in counts]))
    one.own_distance = _own_distance(counts, values)


def _own_distance(plays: Sequence[Floats], values: tuple[float, ...]) -> float | None:
    pairs = [distance(one, other, values) for place, one in enumerate(plays) for other in plays[:place]]
    return float(np.mean(pairs)) if pairs else None


def pooled(runs: Sequence[Sequence[Contrast]]) -> list[Contrast]:
    """Means over runs, which are independent of one another, of the figures that all have."""
    names = [{one.figure.name: one for one in run} for run in runs]
    return [
        _mean([run[one.figure.name] for run in names]) for one in runs[0] if all(one.figure.name in run for run in names)
    ]


def _mean(ones: Sequence[Contrast]) -> Contrast:
    draws = np.mean([one.draws for one in ones], axis=0)
    mean = float(np.mean([one.difference.value for one in ones]))
    plane, twin = (float(np.mean([getattr(one, name) for one in ones])) for name in ("plane", "twin"))
    return Contrast(ones[0].figure, plane, twin, interval(mean, draws), draws)


def told(found: Sequence[Contrast], bars: Bars, overloaded: bool) -> list[Told]:
    """Each figure with its verdict. overloaded: whether demand exceeded what the best models can serve."""
    rows = []
    for one in found:
        bar = bars.of(one.figure.name, overloaded)
        answer = None if bar is None else verdict(one.difference, bar)
        distances = one.distance, one.own_distance
        rows.append(Told(one.figure.name, one.figure.unit, one.plane, one.twin, one.difference, bar, answer, *distances))
    return rows


def overall(rows: Sequence[Told]) -> Answer:
    """The verdict of all figures that have a bar."""
    return together(row.verdict for row in rows if row.verdict is not None)
