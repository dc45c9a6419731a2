"""How much longer batches take than profiled: a sequential test on the logarithms of measured over profiled times."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import exp, inf, log
from statistics import median
from typing import NamedTuple

from loki_rl.core.draws import service_s
from loki_rl.core.pipeline import Latency

# A change by less is not worth a new plan, as a share of the value.
TOLERANCE = 0.1
# Changes that are looked for, as logarithms: a small one adds up slowly, and a large one in a few batches.
SMALL, LARGE = 0.2, 0.5
# Evidence (log likelihood ratio) that is acted on. By Wald's bound a false alarm takes e^EVIDENCE batches on the average.
EVIDENCE = 16.0
# However clear it is: fewer batches, or a shorter time, are a disturbance that passes.
LEAST, LEAST_S = 5, 1.0
# Batches since a change that its size is taken from.
KEPT = 64
# Standard deviation of a logarithm that is always reckoned with: batches in service differ more than those of a profile.
NOISE = 0.1
# Standard deviations beyond which a batch says no more than one there, so that no single one decides.
CLIP = 3.0
# How fast the noise of service is learned once it is known: the share of one batch.
PACE = 1 / 32
# No batch is taken to be further off than so many times.
MOST = 100.0
# Quantiles that stand for the profile's distribution.
GRID = 50


def near_one(value: float) -> float:
    """The value, to three digits; 1 where the difference is not worth a plan."""
    return 1.0 if 1 / (1 + TOLERANCE) < value < 1 + TOLERANCE else round(value, 3)


class Row(NamedTuple):
    """A profiled time on a scale of logarithms. p50: [s]; mean, variance: of the logarithm of a time over p50."""

    p50: float
    mean: float
    variance: float


def row_of(latency: Latency) -> Row:
    """By the distribution that the twin draws from."""
    logs = [log(service_s(latency, (k + 0.5) / GRID) / latency.p50) for k in range(GRID)]
    mean = sum(logs) / GRID
    return Row(latency.p50, mean, sum((one - mean) ** 2 for one in logs) / GRID)


class _Side:
    """Evidence for a change in one direction: two cumulative sums (Page 1954) of log likelihood ratios. since: when what is
    summed began [s]. samples: the latest of it."""

    __slots__ = ("large", "samples", "since", "small")

    def __init__(self) -> None:
        self.small = self.large = 0.0
        self.since = inf
        self.samples: deque[float] = deque(maxlen=KEPT)

    def add(self, off: float, variance: float, sample: float, now: float) -> bool:
        """Whether it is enough. off: how far the sample is off, in this direction."""
        small = self.small + SMALL / variance * (off - SMALL / 2)
        large = self.large + LARGE / variance * (off - LARGE / 2)
        if small <= 0.0 and large <= 0.0:
            self.clear()
            return False
        if not self.samples:
            self.since = now
        # No more than twice what is enough: else what has passed would be believed for as long as it lasted.
        self.small, self.large = min(2 * EVIDENCE, max(0.0, small)), min(2 * EVIDENCE, max(0.0, large))
        self.samples.append(sample)
        enough = self.small > EVIDENCE or self.large > EVIDENCE
        return enough and len(self.samples) >= LEAST and now - self.since >= LEAST_S

    def clear(self) -> None:
        self.small = self.large = 0.0
        self.samples.clear()


class Slowdown:
    """Measured over profiled service time: a value that is believed until batches contradict it.

    times: n -> profiled percentiles [s]. value: what is believed. own: whether enough batches were measured to believe it
    for. latest: when the last one ended [s]. since: when what led to the latest change began [s]; infinitely long ago where
    nothing was known before.
    """

    __slots__ = ("_down", "_former", "_log", "_noise", "_rows", "_times", "_up", "count", "latest", "since", "value")

    def __init__(self, times: Sequence[Latency]) -> None:
        self.value = 1.0
        self.count = 0
        self._times = times
        self._rows: dict[int, Row] = {}
        self.latest = self.since = -inf
        self._log = self._former = self._noise = 0.0
        self._up, self._down = _Side(), _Side()

    @property
    def own(self) -> bool:
        return self.count >= LEAST

    def believe(self, value: float) -> None:
        """From now on this is the value; one that is nearly 1 is 1."""
        self.value = near_one(min(MOST, max(1 / MOST, value)))
        self._begin(log(self.value))

    def move(self, factor: float) -> None:
        """The value is so many times what it was. Factors add up, however small each is."""
        self._begin(min(log(MOST), max(-log(MOST), self._log + log(factor))))
        self.value = near_one(exp(self._log))

    def _begin(self, value: float) -> None:
        self._log = value
        self._up.clear()
        self._down.clear()

    def add(self, items: int, seconds: float, now: float) -> bool:
        """Count a batch of so many items that took so long [s]; whether the value has changed for it."""
        p50, mean, variance = self._rows.get(items) or self._row(items)
        sample = log(min(MOST, max(1 / MOST, seconds / p50))) - mean
        spread = max(variance, self._noise, NOISE * NOISE)
        known = self.own
        self.count += 1
        self.latest = now
        limit = CLIP * spread**0.5
        off = min(limit, max(-limit, sample - self._log))
        # Successive differences: a change that stays adds to one of them only.
        former, self._former = self._former, self._log + off
        if self.count > 1:
            self._noise += max(PACE, 1 / self.count) * ((self._former - former) ** 2 / 2 - self._noise)
        up = (off > SMALL / 2 or self._up.samples) and self._up.add(off, spread, sample, now)
        down = (off < -SMALL / 2 or self._down.samples) and self._down.add(-off, spread, sample, now)
        if not (up or down):
            return False
        return self._change(self._up if up else self._down, limit, known)

    def _row(self, items: int) -> Row:
        row = self._rows[items] = row_of(self._times[items])
        return row

    def _change(self, side: _Side, limit: float, known: bool) -> bool:
        """Believe what was measured since; whether that differs enough."""
        middle = median(side.samples)
        mean = sum(min(middle + limit, max(middle - limit, one)) for one in side.samples) / len(side.samples)
        if abs(mean - self._log) < log(1 + TOLERANCE):
            return False
        self.since = side.since if known else -inf
        former = self.value
        self.believe(exp(mean))
        return self.value != former
