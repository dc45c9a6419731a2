"""Silence is found, and what only looks like it is not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency
from loki_rl.files.config import load_pipeline
from loki_rl.serving.process.heartbeat import COUNTED_S, WORKER_SILENT_S, Heartbeats, worker_silent_s
from loki_rl.serving.transport import wire
from loki_rl.serving.transport.wire import Alive, WireError


def looks(beats: Heartbeats, begin: float, end: float, every: float = 0.25) -> list[str]:
    """Who is found in looks at a steady pace."""
    found: list[str] = []
    for step in range(round((end - begin) / every) + 1):
        found += beats.look(begin + step * every)
    return list(dict.fromkeys(found))


def test_who_is_silent_for_longer_than_allowed_is_found_and_the_others_are_not() -> None:
    beats = Heartbeats()
    beats.expect("a", 2.0)
    beats.expect("b", 4.0)
    assert looks(beats, 100.0, 102.0) == []
    assert beats.look(102.25) == ["a"]
    beats.renew("a", 2.0)
    assert looks(beats, 102.5, 104.0) == []
    assert beats.look(104.25) == ["b"], "of its own time"


def test_before_the_first_sign_the_time_to_start_holds() -> None:
    beats = Heartbeats()
    beats.expect("a", 60.0)
    assert looks(beats, 0.0, 60.0) == []
    beats.renew("a", 2.0)
    assert looks(beats, 60.25, 62.0) == []
    assert beats.look(62.5) == ["a"]


def test_announced_silence_is_none_until_it_is_over() -> None:
    beats = Heartbeats()
    beats.expect("a", 2.0)
    beats.renew("a", 2.0 + 120.0)
    assert looks(beats, 0.0, 122.0) == []
    beats.renew("a", 2.0)
    assert looks(beats, 122.25, 130.0) == ["a"]


@given(st.lists(st.floats(0.0, 3600.0), min_size=1, max_size=20))
def test_a_watch_that_stood_still_finds_nobody_silent_for_it(gaps: list[float]) -> None:
    """Whoever speaks between any two looks of a watch that is stopped again and again is never found."""
    beats, now = Heartbeats(), 0.0
    beats.expect("a", COUNTED_S + 0.01)
    for gap in gaps:
        now += gap
        assert beats.look(now) == []
        beats.renew("a", COUNTED_S + 0.01)


def test_of_a_gap_in_the_looks_only_a_little_counts() -> None:
    beats = Heartbeats()
    beats.expect("a", 2.0)
    assert beats.look(0.0) == beats.look(3600.0) == beats.look(7200.0) == []
    assert beats.silent["a"] == 2 * COUNTED_S


def test_of_those_that_have_ended_nothing_is_expected() -> None:
    beats = Heartbeats()
    beats.expect("a", 2.0)
    beats.forget("a")
    beats.forget("a")
    beats.renew("a", 2.0)  # its last words, read late
    assert looks(beats, 0.0, 100.0) == []


def test_a_worker_may_be_silent_for_as_long_as_its_longest_batches_take() -> None:
    traffic = load_pipeline("traffic").pipeline
    options = ClusterOptions(traffic, 4)
    assert worker_silent_s(options) == WORKER_SILENT_S
    task = traffic.tasks[0]
    latency = {1: Latency(4.0, 4.5, 5.0), 2: Latency(8.0, 9.0, 11.0)}
    slow = replace(task, variants=(replace(task.variants[0], latency=latency), *task.variants[1:]))
    patient = replace(traffic, slo_s=10.0, tasks=(slow, *traffic.tasks[1:]))
    assert worker_silent_s(replace(options, pipeline=patient)) == 15.0, "batches of two never fit"


@pytest.mark.parametrize("patience_s", [-1.0, float("nan"), float("inf"), 1e9])
def test_patience_that_cannot_be_is_no_word(patience_s: float) -> None:
    body = msgspec.msgpack.encode(["Alive", "a", 0, patience_s])
    with pytest.raises(WireError):
        wire.decode_control(memoryview(body))
    assert wire.decode_control(memoryview(msgspec.msgpack.encode(Alive("a", 0, 2.0)))) == Alive("a", 0, 2.0)
