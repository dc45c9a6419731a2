"""Which seconds of a trace windows are cut from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from loki_rl.env.fluid.cuts import DAY_S, GAP_S, GAP_SHARE, PARTS, part_of, trace_sampler
from loki_rl.traces.trace import Trace, TraceError, TraceOptions

WINDOW_S = 60


def counting(seconds: int, bin_s: float = 1.0) -> Trace:
    """In every bin as many requests as bins lie before it: what a window holds tells where it was cut."""
    return Trace("counting", bin_s * np.arange(seconds, dtype=np.float64), np.arange(seconds), bin_s)


def played(trace: Trace, options: TraceOptions, split: str, windows: int = 40) -> NDArray[np.int64]:
    """The seconds that any of these windows plays."""
    cut = trace_sampler(trace, options, split)
    seeds = range(1000 * PARTS.index(split), 1000 * PARTS.index(split) + windows)
    return np.unique(np.concatenate([cut(WINDOW_S, seed).counts for seed in seeds]))


def spans(lasts_s: float, day_s: float = DAY_S) -> Iterator[tuple[int, int]]:
    return (part_of(split, lasts_s, day_s) for split in PARTS)


def test_no_second_is_played_in_two_splits() -> None:
    """With a gap between them, as neighbours resemble each other."""
    train, validation, test = (played(counting(1200), TraceOptions(), split) for split in PARTS)
    gap = GAP_SHARE * 1200
    assert train.max() + gap <= validation.min()
    assert validation.max() + gap <= test.min()
    assert (train.min(), test.max()) == pytest.approx((0, 1200), abs=60)


@pytest.mark.parametrize("lasts_s", [600.0, 3600.0, DAY_S, 1.99 * DAY_S])
def test_less_than_two_days_are_thirds(lasts_s: float) -> None:
    sizes = [high - low for low, high in spans(lasts_s)]
    assert all(size == pytest.approx(lasts_s / 3, rel=0.16) for size in sizes)


@pytest.mark.parametrize(
    ("days", "kept"), [(3.0, (1, 1, 1)), (4.5, (2, 1, 1.5)), (7.0, (5, 1, 1)), (14.0, (10, 2, 2)), (2.0, (1, 0.5, 0.5))]
)
def test_days_are_for_one_split_each(days: float, kept: tuple[float, ...]) -> None:
    found = list(spans(days * DAY_S))
    assert [(high - low) / DAY_S for low, high in found] == pytest.approx(kept, abs=1.01 * GAP_S / DAY_S)
    for (_, before), (after, _) in pairwise(found):
        assert after - before == GAP_S


def test_days_are_those_of_the_trace_however_fast_it_is_played() -> None:
    week = counting(7 * 24, bin_s=3600.0)
    options = TraceOptions(compress=3600.0)  # a day is 24 s, a bin one second
    with pytest.raises(TraceError, match=r"lasts 168 s, of which \d+ s are for test; an episode needs 60 s: take fewer"):
        played(week, options, "test")
    assert list(spans(168.0, 24.0)) == [(0, 116), (124, 140), (148, 168)]


def test_the_window_of_the_trace_is_what_is_cut() -> None:
    options = TraceOptions(from_s=3000.0, to_s=4200.0)
    everything = np.concatenate([played(counting(7200), options, split) for split in PARTS])
    assert everything.min() >= 3000
    assert everything.max() < 4200
