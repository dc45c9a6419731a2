"""The plane's clock on a host that has another one."""

from __future__ import annotations

import time

import pytest

from loki_rl.serving.clock import KEPT, Clock


class Host:
    """A host's own clock, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def answered(self, clock: Clock, ahead: float, there_s: float, back_s: float) -> None:
        """The plane's time is so much ahead; the question takes there_s, the answer back_s."""
        asked = self.now
        self.now += there_s + back_s
        clock.hear(asked, asked + there_s + ahead)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_the_launchers_own_clock_is_the_planes(host: Host) -> None:
    assert Clock()() == host.now


@pytest.mark.parametrize("ahead", [5000.0, -50.0])
def test_the_quickest_answer_is_believed(host: Host, ahead: float) -> None:
    clock = Clock()
    clock()
    host.answered(clock, ahead, 0.200, 0.001)
    assert abs(clock.ahead - ahead) <= 0.1
    host.answered(clock, ahead, 0.001, 0.001)
    assert clock() == pytest.approx(host.now + ahead, abs=1e-6)
    host.answered(clock, ahead, 0.001, 0.300)
    assert clock() == pytest.approx(host.now + ahead, abs=1e-6)


def test_a_clock_that_drifts_is_followed_and_time_never_goes_back(host: Host) -> None:
    clock, ahead, latest = Clock(), 7.0, 0.0
    for step in range(4 * KEPT):
        ahead -= 0.001
        host.answered(clock, ahead, 0.0005 + step % 3 * 0.0001, 0.0005)
        now = clock()
        assert now >= latest
        latest = now
        host.now += 0.0001
    host.now += 1.0
    assert clock() == pytest.approx(host.now + ahead, abs=0.001 * KEPT)
