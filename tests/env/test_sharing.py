"""Jobs that share a host: whoever begins and leaves in between, each ends when its work is done."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loki_rl.core.messages import Tick
from loki_rl.env.sharing import Sharing
from loki_rl.files.calibration_file import Contention

HALF = Contention((1.0, 0.5))


def _run_out(host: Sharing[Any], until: float = 1e9) -> None:
    while (wake := host.wake_at()) is not None and wake <= until:
        host.handle(Tick(), wake)
        host.validate()


def test_two_at_once_take_twice_as_long_and_only_while_they_are_two() -> None:
    ended: dict[str, tuple[float, float]] = {}
    host = Sharing[str](HALF, 0.0)
    host.begin("a", lambda now, seconds: ended.update(a=(now, seconds)), 1.0, 0.0)
    host.begin("b", lambda now, seconds: ended.update(b=(now, seconds)), 2.0, 0.5)
    _run_out(host)
    # a has .5 left at .5 and gets half: until 1.5; b has 1.5 left then, alone.
    assert ended["a"] == pytest.approx((1.5, 1.5))
    assert ended["b"] == pytest.approx((3.0, 2.5))


def test_who_leaves_slows_nobody_any_more() -> None:
    ended: dict[str, float] = {}
    host = Sharing[str](HALF, 0.0)
    for name in "ab":
        host.begin(name, lambda now, _, name=name: ended.update({name: now}), 1.0, 0.0)  # type: ignore[misc]
    host.leave("a", 1.0)
    _run_out(host)
    assert ended == {"b": pytest.approx(1.5)}


def test_waking_too_early_ends_nothing() -> None:
    ended: list[float] = []
    host = Sharing[str](HALF, 0.0)
    host.begin("a", lambda now, _: ended.append(now), 1.0, 0.0)
    host.handle(Tick(), 0.3)
    assert ended == []
    assert host.wake_at() == pytest.approx(1.0)


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 3)), min_size=1, max_size=12),
    st.lists(st.floats(0.1, 1.0), max_size=5),
)
def test_work_is_conserved(jobs: list[tuple[float, float]], falls: list[float]) -> None:
    """What the host did by the time all have ended is what was asked of it."""
    contention = Contention((1.0, *sorted(falls, reverse=True)))
    spans: dict[int, tuple[float, float]] = {}
    host = Sharing[int](contention, 0.0)
    for number, (begin, work_s) in enumerate(sorted(jobs)):
        _run_out(host, begin)
        host.begin(number, lambda now, seconds, n=number: spans.update({n: (now - seconds, now)}), work_s, begin)  # type: ignore[misc]
    _run_out(host)
    assert len(spans) == len(jobs)
    marks = sorted({mark for span in spans.values() for mark in span})
    done = 0.0
    for low, high in pairwise(marks):
        here = sum(begin <= low and end >= high for begin, end in spans.values())
        done += here * contention.speed(max(1, here)) * (high - low)
    assert done == pytest.approx(sum(work_s for _, work_s in jobs), abs=1e-6)
