"""How far service times and fan-outs measured in service are from the profile."""

from __future__ import annotations

from math import exp, log

from loki_rl.core.messages import Result
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift
from loki_rl.core.servers.servers import Servers
from loki_rl.core.servers.slowdown import TOLERANCE, Slowdown

# Batches whose children are judged together. Two windows in a row must agree, so that one strange item moves nothing.
WINDOW = 40
# Batches that may still come back: far more than workers have in hand, whose batches may be lost with them.
KEPT = 4096
# Standard errors of the mean by which a window must differ.
SIGMAS = 3.0


Key = tuple[int, int]  # type of server, variant


class Gauge:
    """A mean that is believed until measurements contradict it. value: what is believed, the profiled one as long as what is
    measured is near it.
    """

    __slots__ = ("_doubt", "_samples", "profiled", "value")

    def __init__(self, profiled: float) -> None:
        self.profiled = self.value = profiled
        self._doubt = 0  # which way the window before was off
        self._samples: list[float] = []

    def add(self, sample: float) -> bool:
        """Count a sample; whether the value has changed for it."""
        samples = self._samples
        samples.append(sample)
        return len(samples) == WINDOW and self._judge()

    def _judge(self) -> bool:
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
    """One variant on one type of server."""

    __slots__ = ("fanouts", "key", "slowdown")

    def __init__(self, key: Key, pipeline: Pipeline, task: int) -> None:
        self.key = key
        self.slowdown = Slowdown(pipeline.latencies[task][key[1]])
        self.fanouts = [Gauge(mean) for mean in pipeline.fanouts[task][key[1]]]

    @property
    def drifts(self) -> bool:
        return self.slowdown.value != 1.0 or any(gauge.value != gauge.profiled for gauge in self.fanouts)

    def bred(self, fanouts: list[tuple[int, ...]], items: int) -> bool:
        """Count what children a batch has made; whether a mean has changed for it."""
        changed = False
        for gauge, counts in zip(self.fanouts, zip(*fanouts, strict=True), strict=False):
            changed |= gauge.add(sum(counts) / items)
        return changed


class DriftWatch:
    """Of one task. found: what differs from the profile, by (type of server, variant). levels: name of a type -> how much
    longer than profiled what was measured there takes, the geometric mean over variants; none where nothing was.

    A batch counts whoever has its items by now: where all take longer than their leases, none would count else. What makes
    one variant slower, as a host does that others use too, makes all so: one that has not served moves along with those that
    have, as does one whose latest batch is from before the change. Were it believed to be as profiled, plans would flee to
    it; were it believed to be as slow as it once was, they would never come back to it.
    """

    def __init__(self, servers: Servers, task: int) -> None:
        self.found: dict[Key, Drift] = {}
        self.levels: dict[str, float] = {}
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

    def record(self, result: Result, now: float) -> bool:
        """Count a batch that ended; whether `found` has changed."""
        given = self._given.pop(result.batch, None)
        if given is None or result.error or result.faults:
            return False
        measured, items = given
        slowdown = measured.slowdown
        former, known = slowdown.value, slowdown.own
        slowed = slowdown.add(items, result.seconds, now)
        if slowed:
            self._move(measured, slowdown.value / former)
        if slowed or slowdown.own != known:
            self._level(measured.key[0])
        bred = measured.bred(result.fanouts, items)
        if bred:
            self._tell(measured)
        return slowed or bred

    def adopt(self, found: list[Drift]) -> None:
        """Go on from what was found before."""
        types = {kind.name: place for place, kind in enumerate(self._servers.types)}
        variants = self._servers.pipelines[0].variant_index[self._task]
        for drift in found:
            key = types[drift.server_type], variants[drift.variant]
            measured = self._measured.get(key) or self._begin(key)
            measured.slowdown.believe(drift.slowdown)
            for gauge, mean in zip(measured.fanouts, drift.fanout.values(), strict=True):
                gauge.value = mean
            self.found[key] = drift

    def slowdown(self, server_type: int, variant: int) -> float:
        """Measured service time over the profiled one."""
        drift = self.found.get((server_type, variant))
        return 1.0 if drift is None else drift.slowdown

    def _begin(self, key: Key) -> Measured:
        measured = self._measured[key] = Measured(key, self._servers.pipelines[key[0]], self._task)
        return measured

    def _siblings(self, server_type: int) -> list[Measured]:
        """All variants on a type."""
        keys = [(server_type, number) for number in range(len(self._servers.pipelines[0].tasks[self._task].variants))]
        return [self._measured.get(key) or self._begin(key) for key in keys]

    def _move(self, moved: Measured, factor: float) -> None:
        """One variant takes `factor` times as long as was believed: so do those that were not measured since, as far as
        those that were agree."""
        since = moved.slowdown.since
        siblings = self._siblings(moved.key[0])
        fresh = [one for one in siblings if one is moved or (one.slowdown.own and one.slowdown.latest >= since)]
        for one in siblings:
            if one not in fresh:
                one.slowdown.move(factor ** (1 / len(fresh)))
            self._tell(one)

    def _level(self, server_type: int) -> None:
        logs = [log(one.slowdown.value) for one in self._siblings(server_type) if one.slowdown.own]
        if logs:
            self.levels[self._servers.types[server_type].name] = round(exp(sum(logs) / len(logs)), 3)

    def _tell(self, measured: Measured) -> None:
        """Bring `found` up to date."""
        if measured.drifts:
            self.found[measured.key] = self._told(measured)
        else:
            self.found.pop(measured.key, None)

    def _told(self, measured: Measured) -> Drift:
        server_type, variant = measured.key
        pipeline = self._servers.pipelines[server_type]
        task = pipeline.tasks[self._task]
        children = [pipeline.tasks[child].name for child in pipeline.children[self._task]]
        fanout = dict(zip(children, (gauge.value for gauge in measured.fanouts), strict=True))
        name = self._servers.types[server_type].name
        return Drift(task.name, task.variants[variant].name, name, measured.slowdown.value, fanout)
