"""Arrivals: the same for everybody, sorted, as many as the trace and the options say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.traces.arrivals import arrivals, duration_s, expected, made_up, requests, scale
from loki_rl.traces.trace import Trace, TraceError, TraceOptions, Wishes, load_trace

seeds = st.integers(0, 2**64 - 1)
counts = st.lists(st.integers(0, 30), min_size=1, max_size=40)
WHOLE = TraceOptions()


def _bins(counts: list[int], bin_s: float = 1.0) -> Trace:
    return Trace("t", np.arange(len(counts), dtype=np.float64) * bin_s, np.array(counts, np.int64), bin_s)


def _exact(times: list[float]) -> Trace:
    return Trace("t", np.sort(np.array(times, np.float64)), np.ones(len(times), np.int64), 0.0)


@given(counts, seeds, st.sampled_from([0.25, 1.0, 60.0]))
def test_every_bin_keeps_its_count(counts: list[int], seed: int, bin_s: float) -> None:
    times = arrivals(_bins(counts, bin_s), WHOLE, seed)
    assert times.dtype == np.float64
    edges = np.arange(len(counts) + 1) * bin_s
    assert np.histogram(times, edges)[0].tolist() == counts


@given(counts, seeds, st.integers(1, 4))
def test_a_whole_scale_repeats_every_request(counts: list[int], seed: int, factor: int) -> None:
    times = arrivals(_bins(counts), TraceOptions(rate_scale=factor), seed)
    assert np.histogram(times, np.arange(len(counts) + 1))[0].tolist() == [factor * count for count in counts]


@given(counts, seeds, st.floats(0.01, 3), st.floats(0.1, 100))
def test_arrivals_are_sorted_and_inside_the_replay(counts: list[int], seed: int, factor: float, compress: float) -> None:
    trace, options = _bins(counts), TraceOptions(rate_scale=factor, compress=compress)
    times = arrivals(trace, options, seed)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < duration_s(trace, options))).all()
    each = np.histogram(times * compress, np.arange(len(counts) + 1))[0]
    assert len(times) <= np.ceil(factor) * sum(counts)
    assert each.sum() >= int(factor) * sum(counts)


@given(counts, seeds, st.floats(0.05, 3))
def test_equal_arguments_give_equal_bytes(counts: list[int], seed: int, factor: float) -> None:
    options = TraceOptions(rate_scale=factor)
    first, again = (arrivals(_bins(counts), options, seed).tobytes() for _ in range(2))
    assert first == again


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import hashlib; from loki_rl.traces.arrivals import arrivals; from loki_rl.traces.trace import *;"
        "print(hashlib.sha256(arrivals(load_trace('flash_crowd'), TraceOptions(rate_scale=2.5), 7).tobytes()).hexdigest())"
    )
    digests = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1


def test_another_seed_gives_other_arrivals() -> None:
    trace = _bins([20] * 10)
    assert not np.array_equal(arrivals(trace, WHOLE, 0), arrivals(trace, WHOLE, 1))


@given(st.lists(st.floats(0, 50), min_size=1, max_size=60), seeds)
def test_exact_arrivals_stay_as_they_are(times: list[float], seed: int) -> None:
    assert arrivals(_exact(times), WHOLE, seed).tolist() == sorted(times)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=60), seeds)
def test_copies_of_exact_arrivals_are_spread_over_their_second(times: list[float], seed: int) -> None:
    trace = _exact(times)
    made = arrivals(trace, TraceOptions(rate_scale=3), seed)
    edges = np.arange(trace.to_s + 1)
    assert np.histogram(made, edges)[0].tolist() == (3 * np.histogram(times, edges)[0]).tolist()
    assert np.isin(times, made).all()


@pytest.mark.parametrize("factor", [0.07, 0.5, 1.3, 2.75])
def test_scaling_has_the_right_mean_and_thinning_is_independent(factor: float) -> None:
    trace = _bins([100] * 400)
    made = np.histogram(arrivals(trace, TraceOptions(rate_scale=factor), 3), np.arange(401))[0]
    part = factor - int(factor)
    assert made.mean() == pytest.approx(100 * factor, abs=5 * np.sqrt(100 * part * (1 - part) / 400))
    assert made.var() == pytest.approx(100 * part * (1 - part), rel=0.3)


@pytest.mark.parametrize("compress", [1.0, 8.0])
@pytest.mark.parametrize("mean_rps", [20.0, 400.0])
def test_a_mean_rate_is_that_of_the_replay(mean_rps: float, compress: float) -> None:
    trace, options = load_trace("flash_crowd"), TraceOptions(from_s=30, to_s=150, mean_rps=mean_rps, compress=compress)
    length = duration_s(trace, options)
    assert length == 120 / compress
    wanted = mean_rps * length
    assert len(arrivals(trace, options, 5)) == pytest.approx(wanted, abs=5 * np.sqrt(wanted))


def test_compression_keeps_the_requests_and_shortens_the_time() -> None:
    trace = _bins([5, 7, 0, 9], 60.0)
    times = arrivals(trace, TraceOptions(compress=60), 0)
    assert np.histogram(times, np.arange(5))[0].tolist() == [5, 7, 0, 9]
    assert scale(trace, TraceOptions(compress=60, mean_rps=21 / 4)) == 1.0


def test_a_window_takes_its_bins_and_shares_of_the_cut_ones() -> None:
    trace = _bins([1000, 2000, 4000], 10.0)
    inner = TraceOptions(from_s=10, to_s=20)
    assert len(arrivals(trace, inner, 0)) == expected(trace, inner) == 2000
    cut = TraceOptions(from_s=5, to_s=25)
    assert expected(trace, cut) == 500 + 2000 + 2000
    times = arrivals(trace, cut, 0)
    assert len(times) == pytest.approx(4500, abs=250)
    assert np.histogram(times, [5, 15])[0][0] == 2000


def test_a_window_of_exact_arrivals_begins_where_it_is_asked_to() -> None:
    trace = _exact([0.5, 1.5, 2.5, 3.5])
    assert arrivals(trace, TraceOptions(from_s=1.5, to_s=3.5, compress=2), 0).tolist() == [0.0, 0.5]


def test_arrivals_inside_a_bin_are_uniform() -> None:
    times = arrivals(_bins([20000], 1.0), WHOLE, 11)
    share = np.histogram(times, np.linspace(0, 1, 11))[0] / 20000
    assert share == pytest.approx(np.full(10, 0.1), abs=0.01)


def test_an_empty_window_has_no_arrivals_and_no_mean_to_reach() -> None:
    trace = _bins([5, 0, 5])
    assert len(arrivals(trace, TraceOptions(from_s=1, to_s=2), 0)) == 0
    with pytest.raises(TraceError, match="has no request in the window"):
        arrivals(trace, TraceOptions(from_s=1, to_s=2, mean_rps=5), 0)


def test_more_than_memory_holds_is_refused() -> None:
    with pytest.raises(TraceError, match="take a shorter window or a lower rate"):
        arrivals(_bins([10]), TraceOptions(mean_rps=1e12), 0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(TraceError, match="the seed must lie between 0 and"):
        arrivals(_bins([1]), WHOLE, seed)


@pytest.mark.parametrize(
    ("trace", "options", "says"),
    [
        (_exact([0.5, 1.5]), WHOLE, ""),
        (_exact([0.5, 1.5]), TraceOptions(rate_scale=0.5), ""),
        (
            _exact([0.5, 1.5]),
            TraceOptions(rate_scale=3),
            "each request of the trace stands for 3, the copies drawn inside its second",
        ),
        (_bins([4, 4], 60.0), WHOLE, "times inside the bins of 60 s are synthetic: drawn uniformly, not observed"),
        (
            _bins([4, 4]),
            TraceOptions(mean_rps=10.0),
            "times inside the bins of 1 s are synthetic: drawn uniformly, not observed; "
            "each request of the trace stands for 2.5",
        ),
    ],
)
def test_what_is_made_up_about_a_replay_is_said(trace: Trace, options: TraceOptions, says: str) -> None:
    assert made_up(trace, options) == says


@given(st.lists(st.floats(0, 9), min_size=1, max_size=30), seeds, st.floats(0.2, 3))
def test_every_request_asks_for_what_its_original_asks_for(times: list[float], seed: int, factor: float) -> None:
    """In a window, compressed, and where requests are left out or copied (into the second of the original)."""
    trace = _exact(times)
    seconds = np.floor(trace.starts_s).astype(np.int64)
    asked = replace(trace, wishes=Wishes(seconds, seconds / 10, seconds + 1))
    options = TraceOptions(from_s=1.0, to_s=trace.to_s, compress=2.0, rate_scale=factor) if trace.to_s > 1 else WHOLE
    found, wishes = requests(asked, options, seed)
    assert wishes is not None
    assert found.tobytes() == arrivals(trace, options, seed).tobytes()
    origin = np.floor(found * options.compress + (options.from_s or 0.0)).astype(np.int64)
    assert wishes.priority.tolist() == origin.tolist() == (wishes.retries - 1).tolist()
    assert wishes.min_accuracy.tolist() == (origin / 10).tolist()
