"""Loads that take longer than the interval end in service, and the two guards that see to it are needed: each test loses its
case when its guard is taken away."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sin
from typing import Literal

import numpy as np
import pytest
from msgspec import Struct

from loki_rl.control.allocator import switching
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.allocator.switching import Ready, ready
from loki_rl.control.demand.belief import Coming
from loki_rl.control.formulation.request import Request, Slice
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.core.effects import Effect, Load
from loki_rl.core.messages import Event, Loaded
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Plan, Snapshot
from loki_rl.env.simulate import simulate

Rate = Callable[[float], float]
SERVERS = 10
# (accuracy, speed), the most accurate serves ten requests a second; the models of the study where the livelock was found.
MODELS = ((1.0, 1.0), (0.97, 1.4), (0.93, 1.9), (0.88, 2.5), (0.82, 3.2))


class Watching:
    """The switch-aware allocator for the demand as it is, for one interval: no room for more hides what a plan does.

    mean: of demand in the long run, in shares of it; the less that is, the less servers count.
    """

    def __init__(self, pipeline: Pipeline, rate: Rate, mean: float) -> None:
        self._planner = Planner(pipeline, PolicyOptions(servers=SERVERS), "tail", 0.0)
        self._rate, self._mean = rate, mean

    def decide(self, snapshot: Snapshot) -> Plan:
        rps = self._rate(snapshot.now)
        coming = Coming(rps, (Slice(rps, 1.0),), self._mean * rps)
        return allocate(self._planner.pipeline, self._planner.moving(snapshot, coming, snapshot.interval_s))


class Course(Struct):
    """Loads begun, those whose model was wanted no more when it was there, and the share of requests lost."""

    begun: int = 0
    abandoned: int = 0
    lost: float = 0.0


def play(
    rate: Rate, mean: float, swap: Literal["break", "make"], load_s: float, interval_s: float, duration_s: int
) -> Course:
    variants = tuple(
        Variant(f"v{i}", accuracy, {1: Latency(0.1 / speed, 0.105 / speed, 0.11 / speed)}, {}, load_s=load_s)
        for i, (accuracy, speed) in enumerate(MODELS)
    )
    pipeline = Pipeline("one", 2.5, (Task("classify", variants, None, 1.0),), {"classify": 1.0}, swap=swap)
    rng, course = np.random.default_rng(1), Course()
    times = np.concatenate([second + np.sort(rng.random(rng.poisson(rate(second)))) for second in range(duration_s)])

    def record(_: str, __: float, event: Event, effects: list[Effect]) -> None:
        loads = sum(isinstance(effect, Load) for effect in effects)
        course.begun += loads
        course.abandoned += loads and isinstance(event, Loaded)

    options = ClusterOptions(pipeline, SERVERS, interval_s=interval_s)
    done = simulate(options, Watching(pipeline, rate, mean).decide, times, float(duration_s), record=record)
    course.lost = done.summary.slo_violation_ratio
    return course


def test_what_comes_after_the_loads_counts_however_long_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """All servers serve the most accurate model when demand grows threefold: judged by the time of loading alone (here three
    intervals) none could be spared for a faster one, so the cluster would stay as it is."""

    def step(second: float) -> float:
        return 80.0 if second < 30 else 240.0

    guarded = play(step, 0.05, "break", 15.0, 5.0, 100)
    monkeypatch.setattr(switching, "LONGEST_SHARE", 0.95)
    naive = play(step, 0.05, "break", 15.0, 5.0, 100)
    assert guarded.begun > SERVERS  # beyond those of the first plan
    assert naive.begun <= SERVERS
    assert guarded.lost < 0.2 < 0.5 < naive.lost


def test_loads_in_flight_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Demand that rises and falls: blind to its own loads every plan begins others, and a third are in vain (a livelock)."""

    def wave(second: float) -> float:
        return 130.0 + 60.0 * sin(second * 2 * pi / 120)

    def blind(pipeline: Pipeline, request: Request) -> Ready:
        found = ready(pipeline, request)
        found.loading.clear()
        found.credit.clear()
        return found

    guarded = play(wave, 1.2, "make", 15.0, 10.0, 200)
    monkeypatch.setattr(switching, "ready", blind)
    naive = play(wave, 1.2, "make", 15.0, 10.0, 200)
    assert guarded.abandoned == 0
    assert naive.abandoned >= naive.begun / 4
    assert guarded.lost < 0.12 < 0.16 < naive.lost
