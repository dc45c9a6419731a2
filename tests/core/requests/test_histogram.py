"""Percentiles out of buckets: right within half a percent, whatever was counted."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core.requests.histogram import ERROR, LEAST_S, LatencyHistogram


def of(latencies: list[float]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for seconds in latencies:
        histogram.add(seconds)
    return histogram


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.floats(LEAST_S, 1e5), min_size=1, max_size=60), st.floats(0, 1))
def test_any_percentile_is_within_half_a_percent(latencies: list[float], share: float) -> None:
    found = of(latencies).percentile(share)
    assert found == pytest.approx(float(np.quantile(latencies, share)), rel=ERROR * (1 + 1e-9))


def test_nothing_and_no_time_are_zero() -> None:
    assert LatencyHistogram().percentile(0.5) == 0.0
    assert of([0.0, 0.0, LEAST_S / 2]).percentile(0.99) == 0.0
    assert of([0.0, 0.0, 1.0]).percentile(1.0) == pytest.approx(1.0, rel=ERROR)


def test_it_does_not_grow_with_what_it_counts() -> None:
    histogram = of([0.05 + number % 100 / 1000 for number in range(100_000)])
    assert histogram.count == 100_000
    assert len(histogram.buckets) <= 100


def test_it_comes_back_from_json_and_msgpack() -> None:
    histogram = of([0.0, 0.001, 0.2, 3.0])
    assert msgspec.json.decode(msgspec.json.encode(histogram), type=LatencyHistogram) == histogram
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(histogram), type=LatencyHistogram) == histogram
