"""Figures are those of the ledger, and distances those of the field's own library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from loki_rl.fidelity.figures import _quantile, distance, figures
from loki_rl.fidelity.observation import LATENCIES, MOST_SPANS, ObservationError, Sums, observe, span_of
from loki_rl.flight.columns import Collector, Flight
from loki_rl.flight.rows import Answer, AnyRow, Arrival, Begun, Usage
from tests.fidelity.conftest import Record

Values = dict[str, float]


def flight(rows: list[AnyRow]) -> Flight:
    collector = Collector()
    collector.add(rows)
    return collector.flight()


def whole(sums: Sums) -> Sums:
    return {name: column.sum(axis=0, keepdims=True) for name, column in sums.items()}


@pytest.mark.parametrize("policy", ["exact", "hardware"])
def test_the_figures_are_those_of_the_ledger(record: Record, policy: str) -> None:
    done, run = record(policy)
    pipeline, summary = run.cluster.pipeline, done.summary
    sums = whole(observe(run.flight, pipeline, run.span))
    found = {one.name: one.scale * float(one.of(sums)[0]) for one in figures(pipeline)}
    assert found["violations"] == pytest.approx(100 * summary.slo_violation_ratio)
    assert found["accuracy"] == pytest.approx(100 * (summary.accuracy or 0.0))
    assert found["servers"] == pytest.approx(summary.servers_mean)
    assert found["loads"] == pytest.approx(summary.switches, abs=1)
    # Both count latencies in classes.
    assert found["p50"] == pytest.approx(summary.p50_ms, rel=0.02)
    assert found["p99"] == pytest.approx(summary.p99_ms, rel=0.02)
    assert sums["arrivals"][0, 0] == summary.arrivals
    batches = sums["batch find"][0]
    assert batches.sum() == np.count_nonzero(run.flight.handed["task"] == 0)


def test_what_is_dropped_is_counted_where_it_was(record: Record) -> None:
    _, run = record("hardware")
    sums = whole(observe(run.flight, run.cluster.pipeline, run.span))
    lost = run.flight.lost
    for number, task in enumerate(run.cluster.pipeline.tasks):
        here = lost[(lost["task"] == number) & (lost["outcome"] == 2)]
        assert sums[f"drops {task.name}"][0, 0] == here["items"].sum()


@given(times=st.lists(st.floats(0.001, 100.0), min_size=1, max_size=200), share=st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_within_a_class(times: list[float], share: float) -> None:
    counts = np.bincount(np.searchsorted(LATENCIES, times), minlength=len(LATENCIES)).astype(np.float64)[None, :]
    (found,) = _quantile(counts, share)
    exact = np.quantile(times, share, method="inverted_cdf")
    assert found == pytest.approx(exact, rel=0.011)


@given(plane=st.lists(st.integers(0, 9), min_size=1, max_size=50), twin=st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_a_distance_is_that_of_the_library(plane: list[int], twin: list[int]) -> None:
    one, other = (np.bincount(sizes, minlength=10).astype(np.float64) for sizes in (plane, twin))
    assert distance(one, other, tuple(map(float, range(10)))) == pytest.approx(wasserstein_distance(plane, twin), abs=1e-9)


def test_a_long_run_has_longer_spans() -> None:
    length = 3 * MOST_SPANS - 1
    rows: list[AnyRow] = [Begun(5.0), *(Arrival(5.5 + second, 0.0, 0.0, 0) for second in range(length))]
    rows += [Usage(second, 2, 0) for second in range(length)]
    span = span_of(flight(rows))
    assert (span.width_s, span.count) == (3.0, MOST_SPANS)
    assert span.place(np.array([5.0, 7.9, 8.0, 1e9])).tolist() == [0, 0, 1, MOST_SPANS - 1]


def test_what_came_before_the_run_is_left_out(record: Record) -> None:
    _, run = record()
    rows: list[AnyRow] = [Begun(100.0)]
    rows += [Arrival(at, 0.0, 0.0, 0) for at in (99.0, 100.5, 101.5)]
    rows += [Answer(at + 0.1, 0, 0.1, 1.0) for at in (99.0, 100.5, 101.5)]  # type: ignore[arg-type]
    found = flight(rows)
    sums = observe(found, run.cluster.pipeline, span_of(found))
    assert sums["arrivals"][:, 0].tolist() == sums["ok"][:, 0].tolist() == [1.0, 1.0]


def test_a_request_without_an_answer_is_a_violation(record: Record) -> None:
    _, run = record()
    found = flight([Begun(0.0), Arrival(0.5, 0.0, 0.0, 0), Arrival(0.6, 0.0, 0.0, 0), Answer(0.7, 0, 0.2, 1.0)])  # type: ignore[arg-type]
    sums = whole(observe(found, run.cluster.pipeline, span_of(found)))
    (violations,) = (one for one in figures(run.cluster.pipeline) if one.name == "violations")
    assert violations.of(sums).tolist() == [0.5]


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "no begin"), ([Begun(5.0)], "no arrival"), ([Begun(5.0), Arrival(1.0, 0.0, 0.0, 0)], "no arrival")],
)
def test_a_run_of_which_nothing_is_known_is_told(rows: list[AnyRow], said: str, tmp_path: Path) -> None:  # noqa: ARG001
    with pytest.raises(ObservationError, match=said):
        span_of(flight(rows))
