"""Generated windows: levels, shapes, and that a seed is a window."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.env.fluid.demands import GENERATED, LEVELS, MOST_SHARE, drawn_sampler

BEST_RPS, MOST_RPS, SECONDS = 100.0, 700.0, 200


@pytest.mark.parametrize("kind", GENERATED)
def test_every_kind_lasts_as_long_as_it_should_around_its_mean(kind: str) -> None:
    sample = drawn_sampler(kind, 150.0, BEST_RPS, MOST_RPS)
    means = []
    for seed in range(40):
        trace = sample(SECONDS, seed)
        assert trace.to_s - trace.from_s == SECONDS
        means.append(trace.counts.sum() / SECONDS)
    assert np.mean(means) == pytest.approx(150.0, rel=0.35)


def test_a_seed_is_a_window() -> None:
    sample = drawn_sampler(None, None, BEST_RPS, MOST_RPS)
    assert np.array_equal(sample(SECONDS, 5).counts, sample(SECONDS, 5).counts)
    assert not np.array_equal(sample(SECONDS, 5).counts, sample(SECONDS, 6).counts)


def test_levels_go_from_little_to_most_of_what_the_cluster_serves() -> None:
    sample = drawn_sampler("calm", None, BEST_RPS, MOST_RPS)
    means = [sample(SECONDS, seed).counts.sum() / SECONDS for seed in range(200)]
    assert 0.9 * LEVELS[0] * BEST_RPS < min(means) < 0.4 * BEST_RPS
    assert 0.8 * MOST_SHARE * MOST_RPS < max(means) < 1.1 * MOST_SHARE * MOST_RPS
    assert np.median(means) < np.mean(means)
