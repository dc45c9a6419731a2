"""Generated demand: its shapes, its noise, and the shipped flash crowd."""

from __future__ import annotations

from math import exp
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.env.fluid.demands import bursty_sampler
from loki_rl.traces.generate import SHAPES, bursty, generate, switching
from loki_rl.traces.trace import TraceError, load_trace


@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 400), st.floats(0.01, 200), st.integers(0, 99), st.floats(0.1, 4))
def test_every_kind_makes_one_count_a_second(kind: str, seconds: int, base: float, seed: int, idc: float) -> None:
    trace = generate(kind, seconds, base, seed, idc=idc)
    assert (trace.name, trace.bin_s, trace.starts_s.tolist()) == (kind, 1.0, list(range(seconds)))
    assert (trace.counts >= 0).all()
    assert np.array_equal(trace.counts, generate(kind, seconds, base, seed, idc=idc).counts)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_the_rate_stays_between_base_and_peak(kind: str) -> None:
    counts = generate(kind, 600, 1000.0, 4, peak=3.0).counts
    assert counts.min() > 1000 - 6 * np.sqrt(1000)
    assert counts.max() < 3000 + 6 * np.sqrt(3000)
    assert counts.max() > 1.5 * counts.min()


def test_a_flash_crowd_rises_within_30_s_and_holds() -> None:
    counts = generate("flash_crowd", 180, 1e6, 0).counts / 1e6
    assert counts[:60] == pytest.approx(np.ones(60), abs=0.01)
    assert counts[90:150] == pytest.approx(np.full(60, 4.7), abs=0.02)
    assert counts[160:] == pytest.approx(np.ones(20), abs=0.01)
    assert (np.diff(counts[60:91]) > 0).all()


def test_a_day_and_a_ramp_have_their_ends() -> None:
    day = generate("diurnal", 1000, 1e6, 0, peak=2.0).counts / 1e6
    assert day[[0, 500]] == pytest.approx([1, 2], abs=0.01)
    ramp = generate("ramp", 100, 1e6, 0, peak=5.0).counts / 1e6
    assert ramp[[0, 99]] == pytest.approx([1, 5], abs=0.01)


def test_bursts_are_on_for_a_quarter_and_steps_hold_their_level() -> None:
    bursts = generate("bursts", 20000, 1e4, 1, peak=2.0, period_s=40).counts
    assert np.mean(bursts > 15000) == pytest.approx(0.25, abs=0.05)
    steps = generate("steps", 100, 1e8, 1, period_s=25).counts.reshape(4, 25)
    assert (steps.std(axis=1) / steps.mean(axis=1) < 1e-3).all()
    assert steps.mean(axis=1).std() > 1e7


@pytest.mark.parametrize("idc", [0.1, 0.5, 1.0, 3.0])
def test_the_noise_is_as_wide_as_asked(idc: float) -> None:
    counts = generate("ramp", 20000, 100.0, 2, peak=1.0, idc=idc).counts
    assert counts.mean() == pytest.approx(100, rel=0.01)
    assert counts.var() / counts.mean() == pytest.approx(idc, rel=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "flashcrowd"}, "unknown kind of demand 'flashcrowd'; known are flash_crowd"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"base_rps": -1.0}, "base_rps must be above 0, not -1"),
        ({"peak": float("nan")}, "peak must be above 0"),
        ({"period_s": 0.0}, "period_s must be above 0"),
        ({"idc": 0.0}, "idc must be above 0"),
        ({"seed": -1}, "the seed must lie between"),
    ],
)
def test_wrong_numbers_are_refused(changed: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"kind": "steps", "seconds": 60, "base_rps": 5.0, "seed": 0}
    with pytest.raises(TraceError, match=message):
        generate(**(arguments | changed))  # type: ignore[arg-type]


def idc(rates: tuple[float, float], means_s: tuple[float, float], window_s: float) -> float:
    """Variance over mean of the counts in windows of this length (Fischer and Meier-Hellstern 1993)."""
    out, back = 1 / means_s[0], 1 / means_s[1]
    change = out + back
    weight = 2 * out * back * (rates[0] - rates[1]) ** 2
    settled = change**2 * (rates[0] * back + rates[1] * out)
    return 1 + weight / settled * (1 - (1 - exp(-change * window_s)) / (change * window_s))


def test_mmpp_is_as_bursty_as_its_formula_at_every_scale() -> None:
    process = (10.0, 50.0), (3.0, 1.0)
    times = switching(*process, 50_000.0, np.random.default_rng(1))
    assert len(times) / 50_000 == pytest.approx(0.75 * 10 + 0.25 * 50, rel=0.03)
    assert (np.diff(times) >= 0).all()
    for window_s in (0.1, 1.0, 10.0):
        counts = np.histogram(times, round(50_000 / window_s), (0.0, 50_000.0))[0]
        assert counts.var() / counts.mean() == pytest.approx(idc(*process, window_s), rel=0.05)


def test_mmpp_without_a_difference_is_poisson() -> None:
    times = switching((20.0, 20.0), (3.0, 1.0), 20_000.0, np.random.default_rng(2))
    counts = np.histogram(times, 4000, (0.0, 20_000.0))[0]
    assert len(times) / 20_000 == pytest.approx(20.0, rel=0.02)
    assert counts.var() / counts.mean() == pytest.approx(idc((20.0, 20.0), (3.0, 1.0), 5.0), rel=0.1)


def test_generated_mmpp_is_exact_and_the_same_for_the_same_seed() -> None:
    made = generate("mmpp", 120, 20.0, 3, peak=3.0, period_s=4.0)
    assert made.exact
    assert made.starts_s.max() < 120
    assert len(made.starts_s) == pytest.approx(120 * 30, rel=0.2)
    again, other = (generate("mmpp", 120, 20.0, seed, peak=3.0, period_s=4.0) for seed in (3, 4))
    assert made.starts_s.tobytes() == again.starts_s.tobytes() != other.starts_s.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"idc": 2.0}, "follows from peak and period_s; leave idc at 1 instead of 2"),
        ({"seconds": 1, "base_rps": 1e-9, "peak": 1.0}, "no request arrived in 1 s"),
        ({"base_rps": 1e9}, "arrivals are more than 1e\\+08; make it shorter"),
    ],
)
def test_mmpp_refuses_what_it_cannot_make(arguments: dict[str, float], message: str) -> None:
    given: dict[str, Any] = {"seconds": 60, "base_rps": 5.0} | arguments
    with pytest.raises(TraceError, match=message):
        generate("mmpp", seed=0, **given)


def test_bursty_is_what_agents_are_trained_on() -> None:
    made = generate("bursty", 790, 300.0, 5)
    window = bursty_sampler(300.0)(790, 5)
    assert made.counts.tolist() == window.counts.tolist() == bursty(790, 300.0, 5).counts.tolist()
    assert made.synthetic
    means = [generate("bursty", 790, 300.0, seed).counts.mean() for seed in range(20)]
    assert 0.75 * 300 < min(means) < max(means) < 1.25 * 300
    assert np.mean(means) == pytest.approx(300, rel=0.1)
    calm, often = (bursty(790, 300.0, 5, bursts).counts for bursts in (0.0, 3.0))
    assert calm.max() / calm.mean() < often.max() / often.mean()


@pytest.mark.parametrize("arguments", [{"peak": 2.0}, {"idc": 2.0}, {"period_s": 9.0}])
def test_bursty_refuses_what_it_draws_itself(arguments: dict[str, float]) -> None:
    with pytest.raises(TraceError, match="leave peak, idc and period_s out"):
        generate("bursty", 60, 5.0, 0, **arguments)


def test_the_shipped_traces_are_what_their_page_says() -> None:
    day = generate("diurnal", 1200, 10.0, 1, peak=4.0, idc=0.1)
    assert load_trace("diurnal").counts.tolist() == day.counts.tolist()
    switching = generate("mmpp", 300, 10.0, 1, period_s=20.0)
    assert load_trace("mmpp").starts_s == pytest.approx(switching.starts_s, abs=1e-6)


def test_the_shipped_flash_crowd_is_what_its_page_says() -> None:
    shipped = load_trace("flash_crowd")
    assert shipped.counts.tolist() == generate("flash_crowd", 180, 10.0, seed=732, idc=0.1).counts.tolist()
    assert shipped.counts[:60].mean() == 10
    assert shipped.counts[90:150].mean() == 47
    assert shipped.counts[160:].mean() == 10
