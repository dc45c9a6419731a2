"""What a running plane does, told from two of its states."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from itertools import accumulate

from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.serving.state import BOUNDS_S, Histogram, PlaneState, Requests, Stage, VariantCount

# Figures are over this many intervals, so that they neither jump nor lag.
WINDOW = 10
HISTORY = 60


class VariantView(Struct):
    """One variant over the window. workers: that pull now; planned: of the plan; batch: mean size; the rest per item [s]."""

    stage: str
    variant: str
    planned: int
    workers: int
    items_rps: float
    batch: float
    queue_s: float
    compute_s: float


class View(Struct):
    """A plane over the window. p50_s, p99_s: at most this (a bound of the histogram). accuracy: 0 when nothing was ok."""

    state: PlaneState
    seconds: float
    arrivals_rps: float
    outcomes_rps: dict[str, float]
    violation_ratio: float
    accuracy: float
    p50_s: float
    p99_s: float
    variants: list[VariantView]
    demand: list[float]


class Watch:
    """The states of the last while, and the view of them."""

    def __init__(self) -> None:
        self._states: deque[PlaneState] = deque(maxlen=WINDOW + 1)
        self._demand: deque[float] = deque(maxlen=HISTORY)

    def see(self, state: PlaneState) -> View:
        if self._states and state.uptime_s < self._states[-1].uptime_s:
            self._states.clear()  # another plane answers now
        self._states.append(state)
        self._demand.append(0.0 if state.control is None else state.control.demand_rps)
        return view(self._states[0], state, list(self._demand))


def view(before: PlaneState, after: PlaneState, demand: list[float]) -> View:
    """before == after: since the plane began."""
    same = before is after
    then = Requests() if same else before.requests
    now, seconds = after.requests, after.uptime_s - (0.0 if same else before.uptime_s)
    seconds = max(seconds, 1e-9)
    ends = [new - old for new, old in zip(now.outcomes, then.outcomes, strict=True)]
    ok, ended = ends[Outcome.OK], sum(ends)
    latency = _since(now.latency, then.latency)
    return View(
        state=after,
        seconds=seconds,
        arrivals_rps=(now.arrivals - then.arrivals) / seconds,
        outcomes_rps={outcome.name.lower(): ends[outcome] / seconds for outcome in Outcome},
        violation_ratio=1 - ok / ended if ended else 0.0,
        accuracy=(now.accuracy_sum - then.accuracy_sum) / ok if ok else 0.0,
        p50_s=percentile(latency, 0.5),
        p99_s=percentile(latency, 0.99),
        variants=_variants([] if same else before.stages, after, seconds),
        demand=demand,
    )


def _variants(before: list[Stage], after: PlaneState, seconds: float) -> list[VariantView]:
    """Every variant that is planned, pulls, or served something in the window."""
    old = {(stage.task, name): count for stage in before for name, count in stage.variants.items()}
    planned: Counter[tuple[str, str]] = Counter()
    if after.control is not None and after.control.plan is not None:
        for place in after.control.plan.placements:
            planned[place.task, place.variant] += place.replicas
    rows: list[VariantView] = []
    for stage in after.stages:
        names = {*stage.variants, *stage.pulling, *(variant for task, variant in planned if task == stage.task)}
        for name in sorted(names):
            key = stage.task, name
            counts = stage.variants.get(name, VariantCount()), old.get(key, VariantCount())
            rows.append(_variant(key, planned[key], stage.pulling.get(name, 0), *counts, seconds))
    return [row for row in rows if row.planned or row.workers or row.items_rps]


def _variant(
    key: tuple[str, str], planned: int, workers: int, new: VariantCount, old: VariantCount, seconds: float
) -> VariantView:
    items, batches = new.items - old.items, new.compute.count - old.compute.count
    return VariantView(
        *key,
        planned,
        workers,
        items_rps=items / seconds,
        batch=items / batches if batches else 0.0,
        queue_s=(new.queue.sum_s - old.queue.sum_s) / items if items else 0.0,
        compute_s=(new.item_seconds - old.item_seconds) / items if items else 0.0,
    )


def _since(new: Histogram, old: Histogram) -> Histogram:
    return Histogram([a - b for a, b in zip(new.counts, old.counts, strict=True)], new.sum_s - old.sum_s)


def percentile(histogram: Histogram, share: float) -> float:
    """The upper bound of the bucket that it lies in; 0.0 of nothing, infinite beyond the last bound."""
    if not histogram.count:
        return 0.0
    place = bisect_left(list(accumulate(histogram.counts)), share * histogram.count)
    return BOUNDS_S[place] if place < len(BOUNDS_S) else float("inf")
