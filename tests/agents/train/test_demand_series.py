"""Demand that the forecaster learns from: which seconds of a trace are for what, and what windows are like."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from loki_rl.agents.evaluate.families import cut
from loki_rl.agents.train.demand_series import GAP_S, LEVELS_RPS, PARTS, SIXTHS, WINDOW_S, from_trace, generated, spans_of
from loki_rl.runs.options import RunOptions
from loki_rl.traces.generate import KINDS
from loki_rl.traces.trace import Trace, TraceError, load_trace, save_trace


def lasting(seconds: int, counts: int = 30, bin_s: float = 1.0) -> Trace:
    bins = int(seconds / bin_s)
    return Trace("flat", np.arange(bins, dtype=np.float64) * bin_s, np.full(bins, counts), bin_s)


@pytest.mark.parametrize("seconds", [20_000, 86_400, 1_000_000])
def test_parts_lie_apart(seconds: int) -> None:
    trace = lasting(seconds, bin_s=10.0)
    spans = [(part, span) for part in PARTS for span in spans_of(trace, part)]
    for (part, (low, high)), (other, (from_s, to_s)) in combinations(spans, 2):
        assert part == other or from_s - high >= GAP_S - 1e-6 or low - to_s >= GAP_S - 1e-6


@pytest.mark.parametrize("compress", [5.0, 1000.0])
def test_what_policies_are_judged_on_is_in_no_window_of_training(tmp_path: Path, compress: float) -> None:
    """At any speed, up to that at which windows fill the trace."""
    save_trace(lasting(86_400), tmp_path / "flat.csv.gz")
    file = tmp_path / "flat.csv.gz"
    trace = load_trace(str(file))
    for number in PARTS["test"]:
        [window] = cut({file: compress}, RunOptions("traffic", "", servers=20), 131.0, number, SIXTHS)
        judged = window.options
        assert judged.from_s is not None
        assert judged.to_s is not None
        for low, high in (*spans_of(trace, "train"), *spans_of(trace, "validation")):
            assert high + GAP_S <= judged.from_s + 1e-6 or judged.to_s + GAP_S <= low + 1e-6


def test_windows_have_seconds_of_their_part_alone() -> None:
    """A trace with demand in one part only: others find none."""
    counts = np.zeros(36_000, np.int64)
    counts[6_000:12_000] = 50
    trace = Trace("second sixth", np.arange(36_000.0), counts, 1.0)
    assert from_trace(trace, "train", 20, 0) == []
    assert from_trace(trace, "test", 20, 0)


def test_windows_differ_in_level_and_are_the_same_for_the_same_seed() -> None:
    windows = from_trace(lasting(50_000), "train", 12, 3)
    means = [float(one.counts.mean()) for one in windows]
    assert max(means) > 5 * min(means)
    assert all(0.8 * LEVELS_RPS[0] < mean < 1.2 * LEVELS_RPS[1] for mean in means)
    assert max(len(one.counts) for one in windows) <= WINDOW_S
    again = from_trace(lasting(50_000), "train", 12, 3)
    assert all(np.array_equal(one.counts, other.counts) for one, other in zip(windows, again, strict=True))


def test_a_trace_that_is_too_short_is_refused() -> None:
    with pytest.raises(TraceError, match="too short to learn from"):
        from_trace(lasting(3_600), "test", 1, 0)


def test_every_kind_is_generated_with_parameters_of_its_own() -> None:
    windows = list(generated(6, 0))
    assert {one.family for one in windows} == set(KINDS)
    swings = [float(one.counts.std() / one.counts.mean()) for one in windows]
    assert min(swings) < 0.2
    assert max(swings) > 0.8
