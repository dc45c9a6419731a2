"""The host of a calibrated twin: how long batches and loads take that run at the same time, and what every message, timer
and plan takes, drawn from what was measured. Contains no scheduling decision; the actors know the profile and no more."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from math import floor, sqrt
from statistics import NormalDist
from typing import Generic, TypeVar

import numpy as np

from loki_rl.core.draws import DELAYS, LOADS, MOOD, SERVICE, uniform
from loki_rl.core.effects import Load, Run, Send
from loki_rl.core.messages import BatchDone, Execute, Loaded, Result
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, expand
from loki_rl.core.requests.items import size
from loki_rl.core.servers.servers import Servers
from loki_rl.env.sharing import Sharing
from loki_rl.files.calibration_file import LEVELS, Calibration, Delay, Mood, ServiceTimes
from loki_rl.traces.arrivals import generator

A = TypeVar("A")
Quantiles = tuple[float, ...]
Job = BatchDone | Loaded
# Delays are drawn in blocks of so many.
BLOCK = 4096
# Steps of the common mood per memory.
MOOD_STEPS = 8
NORMAL = NormalDist()
LEAST_U = 2**-53


def quantile(quantiles: Quantiles, u: float) -> float:
    """The u-quantile of a distribution kept at LEVELS, linear between them."""
    place = min(bisect_right(LEVELS, u), len(LEVELS) - 1)
    low, high = LEVELS[place - 1], LEVELS[place]
    return quantiles[place - 1] + (u - low) / (high - low) * (quantiles[place] - quantiles[place - 1])


def mean_of(quantiles: Quantiles) -> float:
    """The mean of that distribution."""
    steps = zip(pairwise(LEVELS), pairwise(quantiles), strict=True)
    return sum((high - low) * (a + b) / 2 for (low, high), (a, b) in steps)


class CommonMood:
    """A standard normal score that all batches of a moment share; what it is at a time depends on the seed alone."""

    def __init__(self, mood: Mood, seed: int) -> None:
        self._own, self._common = sqrt(1.0 - mood.share), sqrt(mood.share)
        self._step_s = mood.memory_s / MOOD_STEPS
        self._keep = float(np.exp(-1.0 / MOOD_STEPS))
        self._fresh = sqrt(1.0 - self._keep**2)
        self._normal = generator(seed, MOOD).standard_normal
        self._step: int | None = None
        self._score = 0.0

    def shade(self, u: float, now: float) -> float:
        """A batch's own uniform number, made like those of others that begin about now."""
        if not self._common:
            return u
        own = NORMAL.inv_cdf(max(u, LEAST_U))
        return min(NORMAL.cdf(self._own * own + self._common * self._at(now)), 1.0 - LEAST_U)

    def _at(self, now: float) -> float:
        step = floor(now / self._step_s)
        if self._step is None:
            self._step, self._score = step, float(self._normal())
        while self._step < step:
            self._score = self._keep * self._score + self._fresh * float(self._normal())
            self._step += 1
        return self._score


def usual_of(
    calibration: Calibration, pipeline: Pipeline, task: int, variant: int, pool: bool = False
) -> tuple[ServiceTimes, tuple[float, ...]]:
    """What is known of the service times of a variant, and what its ratio is one to, by batch size [s]: the profile may be
    another by now than the one that was recorded with. Types of a pool have each their own, and only the ratio is known."""
    rows = {(row.task, row.variant): row for row in calibration.services}
    names = pipeline.names(task, variant)
    assert names is not None
    found = rows.get(names) or rows.get((names[0], None)) or rows[None, None]
    usual = pipeline.service_s[task][variant]
    if found.profiled and not pool:
        latency = {row.batch: Latency(*(row.p50_ms / 1000,) * 3) for row in found.profiled}
        recorded = tuple(row.p50 for row in expand(latency, pipeline.padded))
        usual = recorded if len(recorded) >= len(usual) else usual
    return found, usual


class Times:
    """What batches and loads take while nothing else runs on the host."""

    def __init__(self, calibration: Calibration, options: ClusterOptions) -> None:
        self._seed = options.seed
        self._calibration = calibration
        self._loads = {(row.task, row.variant): row for row in calibration.loads}
        self._mood = CommonMood(calibration.mood, options.seed)
        self._pool = bool(options.pool)
        self._known: dict[tuple[int, int, int], tuple[Quantiles, tuple[float, ...]]] = {}
        self._loaded = 0
        self._servers = Servers(options)

    def service_s(self, server_type: int, run: Run, now: float) -> float:
        """Of a batch, by seed and batch; with what slows everything about now."""
        key = server_type, run.task, run.variant
        known = self._known.get(key)
        if known is None:
            row, usual = usual_of(self._calibration, self._servers.pipelines[server_type], run.task, run.variant, self._pool)
            known = self._known[key] = row.ratio, usual
        ratio, usual = known
        u = self._mood.shade(uniform(self._seed, run.batch, SERVICE), now)
        return usual[size(run.families)] * quantile(ratio, u)

    def load_s(self, server_type: int, load: Load) -> float:
        """Of a model."""
        pipeline = self._servers.pipelines[server_type]
        names, self._loaded = pipeline.names(load.task, load.variant), self._loaded + 1
        assert names is not None
        u = uniform(self._seed, self._loaded, LOADS)
        own, common = self._loads.get(names), self._loads.get((None, None))
        if own is not None:
            return quantile(own.quantiles, u)
        profiled_s = pipeline.tasks[load.task].variants[load.variant].load_s
        return profiled_s if common is None else profiled_s * quantile(common.quantiles, u)


class Draws:
    """An endless supply of one kind of delay [s]."""

    def __init__(self, quantiles: Quantiles, rng: np.random.Generator) -> None:
        self._quantiles, self._rng = np.array(quantiles), rng
        self._left: Iterator[float] = iter(())

    def next(self) -> float:
        for value in self._left:
            return value
        self._left = iter(np.interp(self._rng.random(BLOCK), LEVELS, self._quantiles).tolist())
        return next(self._left)


class Delays:
    """What messages, hand-overs, timers and plans take [s]."""

    def __init__(self, calibration: Calibration, options: ClusterOptions, policy: str) -> None:
        kept = {row.kind: row.seconds for row in calibration.delays}
        hop = (options.pipeline.hop_s,) * len(LEVELS)
        none = (0.0,) * len(LEVELS)
        usual: dict[Delay, Quantiles] = {
            "dispatch": hop, "result": hop, "message": hop, "handover": none, "handover_next": none, "timer": none,
        }  # fmt: skip
        plans = {row.policy: row.seconds for row in calibration.plans}
        every = [kept.get(kind, default) for kind, default in usual.items()]
        every.append(plans.get(policy) or plans.get(None) or none)
        draws = [Draws(row, generator(options.seed, DELAYS + place)) for place, row in enumerate(every)]
        self.dispatch, self.result, self.message, self.handover, self.handover_next, self.timer, self.plan = draws
        self.longest_s = max(row[-1] for row in every[:-1])


class Host(Generic[A]):
    """What the twin asks of a calibration. deliver(time, server, job): tells a server at a time [s] that its engine is done.
    sharing: where jobs slow each other, an actor that ends them."""

    def __init__(
        self,
        calibration: Calibration,
        policy: str,
        options: ClusterOptions,
        start: float,
        deliver: Callable[[float, A, Job], None],
    ) -> None:
        self.times = Times(calibration, options)
        self.delays = Delays(calibration, options, policy)
        self.sharing = None if calibration.contention.alone else Sharing[A](calibration.contention, start)
        self._deliver = deliver
        self._told: dict[A, float] = {}
        self._latest: dict[tuple[str, str], float] = {}

    def begin(self, server: A, job: Job, work_s: float, now: float) -> None:
        """A server's engine begins a batch or a load that would take so long alone [s]."""
        handover_s = self._handover_s(server, now) if type(job) is BatchDone else 0.0
        if self.sharing is not None:
            self.sharing.begin(server, partial(self._finish, server, job, handover_s), work_s, now)
        else:
            self._finish(server, job, handover_s, now + work_s, work_s)

    def leave(self, server: A, now: float) -> None:
        """A server is gone, with all that it ran."""
        if self.sharing is not None:
            self.sharing.leave(server, now)

    def arrival(self, sender: str, send: Send, now: float) -> float:
        """When a message reaches its actor [s]: none overtakes another between the same two."""
        kind, delays = type(send.message), self.delays
        way = delays.dispatch if kind is Execute else delays.result if kind is Result else delays.message
        between, latest = (sender, send.to), self._latest
        at = latest[between] = max(now + way.next(), latest.get(between, now))
        return at

    def _handover_s(self, server: A, now: float) -> float:
        delays = self.delays
        return (delays.handover_next if self._told.get(server) == now else delays.handover).next()

    def _finish(self, server: A, job: Job, handover_s: float, end: float, seconds: float) -> None:
        job.seconds = seconds
        self._told[server] = told = end + handover_s
        self._deliver(told, server, job)
