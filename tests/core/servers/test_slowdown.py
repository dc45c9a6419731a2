"""The sequential test on service times: how rarely it is wrong, how soon it is right, and what moves it not at all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import exp
from random import Random
from statistics import median

import pytest

from loki_rl.core.draws import service_s
from loki_rl.core.pipeline import Latency
from loki_rl.core.servers.slowdown import LEAST, LEAST_S, MOST, TOLERANCE, Slowdown
from loki_rl.files.config import load_pipeline

FLAT = Latency(0.02, 0.02, 0.02)
HEAVY = Latency(0.02, 0.04, 0.08)
# Of batches that are far enough apart for each to count.
EACH_S = 1.0
KNOWN = 40


@cache
def shipped() -> tuple[Latency, ...]:
    """The widest service times of each kind of profile that comes with the project, and wider ones."""
    found = [HEAVY]
    for name in ("traffic", "social", "reading"):
        rows = [row for task in load_pipeline(name).pipeline.tasks for one in task.variants for row in one.latency.values()]
        found.append(max(rows, key=lambda row: row.p99 / row.p50))
    return tuple(found)


def drawn(latency: Latency, rng: Random, factor: float = 1.0, sigma: float = 0.0) -> Iterator[float]:
    """Service times [s] of a profile, slowed, with noise on top."""
    while True:
        yield factor * service_s(latency, rng.random()) * exp(rng.gauss(0.0, sigma))


def warm(latency: Latency, rng: Random, sigma: float = 0.0) -> Slowdown:
    """One that has seen batches as profiled."""
    slowdown = Slowdown((latency, latency))
    for number, seconds in zip(range(KNOWN), drawn(latency, rng, sigma=sigma), strict=False):
        slowdown.add(1, seconds, EACH_S * number)
    return slowdown


def delay(latency: Latency, factor: float, seed: int, sigma: float = 0.0) -> int:
    """Batches from a change until it is believed."""
    rng = Random(seed)
    slowdown = warm(latency, rng, sigma)
    for number, seconds in enumerate(drawn(latency, rng, factor, sigma), 1):
        if slowdown.add(1, seconds, EACH_S * (KNOWN + number)):
            return number
    raise AssertionError


@pytest.mark.parametrize("place", range(4))
def test_draws_of_the_profile_move_nothing_in_fifty_thousand_batches(place: int) -> None:
    slowdown, latency = Slowdown((shipped()[place],) * 2), shipped()[place]
    moved = [
        slowdown.add(1, seconds, EACH_S * number)
        for number, seconds in zip(range(50_000), drawn(latency, Random(place)), strict=False)
    ]
    assert not any(moved)


@pytest.mark.parametrize(
    ("factor", "sigma", "batches"),
    [
        (0.6, 0.0, 6),
        (1.6, 0.0, 6),
        (3.0, 0.0, 6),
        (0.8, 0.0, 12),
        (1.25, 0.0, 12),
        (0.6, 0.1, 8),
        (1.6, 0.1, 8),
        (0.8, 0.1, 25),
    ],
)
def test_a_change_is_believed_after_a_few_batches(factor: float, sigma: float, batches: int) -> None:
    """By the shipped profile of real models, without and with the noise of a host."""
    latency = shipped()[3]
    assert median(delay(latency, factor, seed, sigma) for seed in range(20)) <= batches


@pytest.mark.parametrize("factor", [0.5, 0.6, 0.8, 1.25, 1.6, 3.0])
def test_what_is_believed_is_what_is_measured_both_ways(factor: float) -> None:
    rng = Random(1)
    slowdown = warm(shipped()[3], rng, 0.05)
    for number, seconds in zip(range(100), drawn(shipped()[3], rng, factor, 0.05), strict=False):
        slowdown.add(1, seconds, EACH_S * (KNOWN + number))
    assert slowdown.value == pytest.approx(factor, rel=TOLERANCE)
    for number, seconds in zip(range(100), drawn(shipped()[3], rng, 1.0, 0.05), strict=False):
        slowdown.add(1, seconds, EACH_S * (KNOWN + 100 + number))
    assert slowdown.value == 1.0


@pytest.mark.parametrize("outlier", [3.0, 50.0])
def test_single_disturbed_batches_move_nothing(outlier: float) -> None:
    rng = Random(2)
    slowdown = Slowdown((shipped()[3],) * 2)
    for number, seconds in zip(range(5_000), drawn(shipped()[3], rng), strict=False):
        assert not slowdown.add(1, seconds * (outlier if number % 10 == 5 else 1.0), EACH_S * number)
    assert slowdown.value == 1.0


def test_a_disturbance_of_less_than_a_second_moves_nothing_however_many_batches_it_meets() -> None:
    slowdown = Slowdown((FLAT,) * 2)
    for number in range(10_000):
        now = number / 1000
        disturbed = 5.0 <= now < 5.0 + 0.9 * LEAST_S
        assert not slowdown.add(1, (3.0 if disturbed else 1.0) * FLAT.p50, now)


def test_a_change_that_stays_is_believed_once_it_has_lasted() -> None:
    slowdown = Slowdown((FLAT,) * 2)
    changed = [now / 1000 for now in range(5_000) if slowdown.add(1, (2.0 if now >= 1000 else 1.0) * FLAT.p50, now / 1000)]
    assert changed == [pytest.approx(1.0 + LEAST_S)]
    assert slowdown.value == 2.0
    assert slowdown.since == pytest.approx(1.0)


def test_sizes_are_judged_by_their_own_times() -> None:
    times = (FLAT, FLAT, Latency(0.1, 0.1, 0.1))
    slowdown = Slowdown(times)
    for number in range(100):
        items = 1 + number % 2
        assert not slowdown.add(items, times[items].p50, number)


def test_what_is_too_little_to_plan_for_is_not_told_and_not_lost() -> None:
    slowdown = Slowdown((FLAT,) * 2)
    slowdown.move(1.07)
    assert slowdown.value == 1.0
    slowdown.move(1.07)
    assert slowdown.value == pytest.approx(1.07**2, abs=0.001)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_times_that_cannot_be_have_their_limit(seconds: float) -> None:
    slowdown = Slowdown((FLAT,) * 2)
    for number in range(3 * LEAST):
        slowdown.add(1, seconds, number)
    slowdown.move(4.0)
    assert 1 / MOST <= slowdown.value <= MOST
    slowdown.believe(seconds)
    assert 1 / MOST <= slowdown.value <= MOST
