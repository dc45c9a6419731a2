"""How far service times and fan-outs measured in service are from the profile."""

from __future__ import annotations

from collections.abc import Sequence

from loki_rl.core.draws import mean_s
from loki_rl.core.messages import Result
from loki_rl.core.plan import Drift
from loki_rl.core.servers.servers import Servers

# Batches that are judged together. Two windows in a row must agree, so that one disturbance moves nothing.
WINDOW = 40
# Batches that may still come back: far more than workers have in hand, whose batches may be lost with them.
KEPT = 4096
# Less than this share of the value is not worth a new plan.
TOLERANCE = 0.1
# Standard errors of the mean by which a window must differ.
SIGMAS = 3.0


Key = tuple[int, int]  # type of server, variant


class Gauge:
    """A mean that is believed until measurements contradict it. value: what is believed, the profiled one as long as what is
    measured is near it. judged: whether a whole window was measured yet.
    """

    __slots__ = ("_doubt", "_samples", "judged", "profiled", "value")

    def __init__(self, profiled: float) -> None:
        self.profiled = self.value = profiled
        self.judged = False
        self._doubt = 0  # which way the window before was off
        self._samples: list[float] = []

    def add(self, sample: float) -> bool:
        """Count a sample; whether the value has changed for it."""
        samples = self._samples
        samples.append(sample)
        return len(samples) == WINDOW and self._judge()

    def _judge(self) -> bool:
        self.judged = True
        mean = sum(self._samples) / WINDOW
        error = (sum((sample - mean) ** 2 for sample in self._samples) / (WINDOW - 1) / WINDOW) ** 0.5
        self._samples.clear()
        off = mean - self.value
        former, self._doubt = self._doubt, 0
        if abs(off) <= max(TOLERANCE * self.value, SIGMAS * error):
            return False
        way = 1 if off > 0 else -1
        if former != way:
            self._doubt = way
            return False
        # Of this window alone: the change may have come within the one before.
        near = abs(mean - self.profiled) <= TOLERANCE / 2 * self.profiled
        self.value = self.profiled if near else round(mean, 3)
        return True


class Measured:
    """One variant on one type of server. key: type and variant. times: n -> profiled mean service time [s]."""

    __slots__ = ("fanouts", "key", "slowdown", "times")

    def __init__(self, key: Key, times: Sequence[float], fanouts: Sequence[float]) -> None:
        self.key, self.times = key, times
        self.slowdown = Gauge(1.0)
        self.fanouts = [Gauge(mean) for mean in fanouts]

    @property
    def drifts(self) -> bool:
        return any(gauge.value != gauge.profiled for gauge in (self.slowdown, *self.fanouts))

    def add(self, result: Result, items: int) -> bool:
        """Count a batch of so many items; whether an estimate has changed for it."""
        changed = self.slowdown.add(result.seconds / self.times[items])
        for gauge, counts in zip(self.fanouts, zip(*result.fanouts, strict=True), strict=False):
            changed |= gauge.add(sum(counts) / items)
        return changed


class DriftWatch:
    """Of one task. found: what differs from the profile, by (type of server, variant).

    A batch counts whoever has its items by now: where all take longer than their leases, none would count else. A variant
    that has not served is taken to be as slow as the one measured last: were it believed to be as profiled, plans would
    flee to it from every variant that a busy host slows down.
    """

    def __init__(self, servers: Servers, task: int) -> None:
        self.found: dict[Key, Drift] = {}
        self._servers = servers
        self._task = task
        self._measured: dict[Key, Measured] = {}
        self._given: dict[int, tuple[Measured, int]] = {}

    def given(self, batch: int, key: Key, items: int) -> None:
        """A server of this type has got a batch of so many items, for this variant."""
        given = self._given
        given[batch] = self._measured.get(key) or self._begin(key), items
        if len(given) > KEPT:
            del given[next(iter(given))]

    def record(self, result: Result) -> bool:
        """Count a batch that ended; whether `found` has changed."""
        given = self._given.pop(result.batch, None)
        if given is None or result.error or result.faults:
            return False
        measured, items = given
        if not measured.add(result, items):
            return False
        server_type = measured.key[0]
        for other in range(len(self._servers.pipelines[server_type].tasks[self._task].variants)):
            self._tell((server_type, other), measured.slowdown.value)
        return True

    def adopt(self, found: list[Drift]) -> None:
        """Go on from what was found before."""
        types = {kind.name: place for place, kind in enumerate(self._servers.types)}
        variants = self._servers.pipelines[0].variant_index[self._task]
        for drift in found:
            key = types[drift.server_type], variants[drift.variant]
            measured = self._measured.get(key) or self._begin(key)
            measured.slowdown.value = drift.slowdown
            for gauge, mean in zip(measured.fanouts, drift.fanout.values(), strict=True):
                gauge.value = mean
            self.found[key] = drift

    def slowdown(self, server_type: int, variant: int) -> float:
        """Measured service time over the profiled one."""
        drift = self.found.get((server_type, variant))
        return 1.0 if drift is None else drift.slowdown

    def _begin(self, key: Key) -> Measured:
        server_type, variant = key
        pipeline = self._servers.pipelines[server_type]
        times = [mean_s(row) for row in pipeline.latencies[self._task][variant]]
        measured = self._measured[key] = Measured(key, times, pipeline.fanouts[self._task][variant])
        return measured

    def _tell(self, key: Key, usual: float) -> None:
        """Bring `found` up to date. usual: slowdown of what was never measured."""
        measured = self._measured.get(key) or self._begin(key)
        if not measured.slowdown.judged:
            measured.slowdown.value = usual
        if measured.drifts:
            self.found[key] = self._told(key, measured)
        else:
            self.found.pop(key, None)

    def _told(self, key: Key, measured: Measured) -> Drift:
        server_type, variant = key
        pipeline = self._servers.pipelines[server_type]
        task = pipeline.tasks[self._task]
        children = [pipeline.tasks[child].name for child in pipeline.children[self._task]]
        fanout = dict(zip(children, (gauge.value for gauge in measured.fanouts), strict=True))
        name = self._servers.types[server_type].name
        return Drift(task.name, task.variants[variant].name, name, measured.slowdown.value, fanout)
