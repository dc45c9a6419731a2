"""Keyed draws: nothing but the key counts, and a variant with a larger mean never makes fewer children."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.core import draws
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant

FAST = {1: Latency(0.01, 0.02, 0.04)}
MEANS = (0.0, 0.3, 1.0, 2.5, 9.0)
PIPELINE = Pipeline(
    name="wide",
    slo_s=1.0,
    tasks=(
        Task("find", tuple(Variant(f"v{mean}", 1.0, FAST, {"a": mean, "b": 2 * mean}) for mean in MEANS), entry=1.5),
        Task("a", (Variant("a", 1.0, FAST),), parent="find"),
        Task("b", (Variant("b", 1.0, FAST),), parent="find"),
        Task("also", (Variant("also", 1.0, FAST),), entry=0.25),
    ),
    leaf_weights={"a": 0.5, "b": 0.25, "also": 0.25},
)
SEEDS = st.integers(0, (1 << 64) - 1)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(SEEDS, st.integers(0, (1 << 63) - 1))
def test_fanout_rises_with_the_mean_from_one_uniform(seed: int, item: int) -> None:
    made = [draws.fanouts(seed, PIPELINE, item, 0, variant) for variant in range(len(MEANS))]
    assert all(a <= b for less, more in pairwise(made) for a, b in zip(less, more, strict=True)), made
    assert made[0] == (0, 0)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.floats(0, 1, exclude_max=True), st.floats(0, 500), st.floats(0, 500))
def test_poisson_quantiles_rise_with_both_arguments(u: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert draws.poisson(u, low) <= draws.poisson(u, high)
    assert draws.poisson(u / 2, low) <= draws.poisson(u, low)


@pytest.mark.parametrize("mean", [0.3, 5.0, 60.0, 500.0])
def test_poisson_draws_have_the_mean_and_variance_of_the_distribution(mean: float) -> None:
    n = 4000
    counts = [draws.poisson((k + 0.5) / n, mean) for k in range(n)]
    average = sum(counts) / n
    assert average == pytest.approx(mean, rel=2e-3)
    assert sum((count - average) ** 2 for count in counts) / n == pytest.approx(mean, rel=2e-2)
    assert counts.count(0) / n == pytest.approx(exp(-mean), abs=1 / n)


def test_uniforms_of_neighbouring_keys_look_independent() -> None:
    n = 4000
    for keys in ([(7, key, 0) for key in range(n)], [(7, 9, stream) for stream in range(n)], [(s, 0, 0) for s in range(n)]):
        values = [draws.uniform(*key) for key in keys]
        bins = Counter(int(10 * value) for value in values)
        # 99.99 % of chi-square with 9 degrees of freedom.
        assert sum((bins[k] - n / 10) ** 2 / (n / 10) for k in range(10)) < 33.7
        together = sum((a - 0.5) * (b - 0.5) for a, b in pairwise(values)) / n
        assert abs(together) < 4 / 12 / n**0.5


def test_a_draw_is_the_same_in_every_build() -> None:
    """These are part of every recorded run: a change of the generator must be meant."""
    assert draws.uniform(1, 2, 3) == 0.17282884069176419
    assert draws.fanouts(0, PIPELINE, PIPELINE.entry_id(5, 0), 0, 4) == (11, 20)


def test_entry_counts_have_the_means_of_the_file() -> None:
    counts = [draws.entry_counts(3, PIPELINE, root) for root in range(4000)]
    assert {count for count, _ in counts} == {1, 2}
    assert {count for _, count in counts} == {0, 1}
    assert sum(count for count, _ in counts) / 4000 == pytest.approx(1.5, abs=0.03)
    assert sum(count for _, count in counts) / 4000 == pytest.approx(0.25, abs=0.03)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_service_time_rises_from_the_median_to_p99(u: float, v: float) -> None:
    row = Latency(0.01, 0.02, 0.04)
    low, high = draws.service_s(row, min(u, v)), draws.service_s(row, max(u, v))
    assert 0.01 <= low <= high <= 0.04


def test_service_time_passes_through_its_percentiles() -> None:
    row = Latency(0.01, 0.02, 0.04)
    assert [draws.service_s(row, u) for u in (0.0, 0.5, 0.95, 0.99, 0.9999)] == pytest.approx([0.01, 0.01, 0.02, 0.04, 0.04])


def test_lost_leaves_are_those_that_the_most_accurate_variants_would_have_made() -> None:
    for root in range(50):
        entries = draws.entry_counts(1, PIPELINE, root)
        items = [PIPELINE.entry_id(root, number) for number in range(entries[0])]
        made = sum(sum(draws.fanouts(1, PIPELINE, item, 0, 0)) for item in items)
        assert PIPELINE.most_accurate[0] == 0, "the first of equals"
        assert draws.root_leaves(1, PIPELINE, root) == made + entries[1]


def test_no_two_streams_are_the_same_and_none_is_the_position_of_a_task() -> None:
    keyed = [draws.SERVICE, draws.NOISE, draws.DEAL, draws.SAMPLE, draws.RETRY, draws.SPAN, draws.ROOT_SPAN]
    keyed += [draws.TRACE_HIGH, draws.TRACE_LOW, *(draws.ENTRY + task for task in range(100))]
    whole = [draws.ARRIVALS, draws.GENERATE, draws.BURSTY, draws.FLUID_WINDOWS, draws.FLUID_CUTS, draws.FORECASTER]
    assert len(set(keyed)) == len(keyed)
    assert min(keyed) > 1000
    assert len(set(whole)) == len(whole)
