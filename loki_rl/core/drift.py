"""How far service times and fan-outs measured in service are from the profile. Owns these estimates and when they count;
decides nothing about plans."""

from __future__ import annotations

from collections.abc import Sequence

from loki_rl.core.draws import mean_s
from loki_rl.core.messages import Result
from loki_rl.core.plan import Drift
from loki_rl.core.servers import Servers

# Batches that are judged together. Two windows in a row must agree, so that one disturbance moves nothing.
WINDOW = 40
# Less than this share of the value is not worth a new plan.
TOLERANCE = 0.1
# Standard errors of the mean by which a window must differ.
SIGMAS = 3.0


class Gauge:
    """A mean that is believed until measurements contradict it. value: what is believed."""

    __slots__ = ("_count", "_former", "_squares", "_total", "value")

    def __init__(self, value: float) -> None:
        self.value = value
        self._former: float | None = None
        self._begin()

    def add(self, sample: float) -> bool:
        """Count a sample; whether the value has changed for it."""
        self._count += 1
        self._total += sample
        self._squares += sample * sample
        return self._count == WINDOW and self._judge()

    def _judge(self) -> bool:
        mean = self._total / WINDOW
        error = (max(0.0, self._squares / WINDOW - mean * mean) / (WINDOW - 1)) ** 0.5
        self._begin()
        off = mean - self.value
        former, self._former = self._former, None
        if abs(off) <= max(TOLERANCE * self.value, SIGMAS * error):
            return False
        if former is None or (former > self.value) != (off > 0):
            self._former = mean
            return False
        self.value = round((former + mean) / 2, 3)
        return True

    def _begin(self) -> None:
        self._count, self._total, self._squares = 0, 0.0, 0.0


class Measured:
    """One variant on one type of server. times: n -> profiled mean service time [s]."""

    __slots__ = ("fanouts", "slowdown", "times")

    def __init__(self, times: Sequence[float], fanouts: Sequence[float]) -> None:
        self.times = times
        self.slowdown = Gauge(1.0)
        self.fanouts = [Gauge(mean) for mean in fanouts]

    def add(self, result: Result) -> bool:
        """Count a batch; whether an estimate has changed for it."""
        items = len(result.fanouts)
        changed = self.slowdown.add(result.seconds / self.times[items])
        for place, gauge in enumerate(self.fanouts):
            changed |= gauge.add(sum(fanout[place] for fanout in result.fanouts) / items)
        return changed


class DriftWatch:
    """Of one task. found: what differs from the profile, by (type of server, variant)."""

    def __init__(self, servers: Servers, task: int) -> None:
        self.found: dict[tuple[int, int], Drift] = {}
        self._servers = servers
        self._task = task
        self._measured: dict[tuple[int, int], Measured] = {}

    def record(self, result: Result) -> bool:
        """Count a batch that ended well, whoever has its items now; whether `found` has changed."""
        key = self._servers.type_of(result.worker), result.variant
        measured = self._measured.get(key) or self._begin(key)
        if not 0 < len(result.fanouts) < len(measured.times) or not measured.add(result):
            return False
        self._note(key, measured)
        return True

    def slowdown(self, server_type: int, variant: int) -> float:
        """Measured service time over the profiled one."""
        drift = self.found.get((server_type, variant))
        return 1.0 if drift is None else drift.slowdown

    def _begin(self, key: tuple[int, int]) -> Measured:
        server_type, variant = key
        pipeline = self._servers.pipelines[server_type]
        times = [mean_s(row) for row in pipeline.latencies[self._task][variant]]
        measured = self._measured[key] = Measured(times, pipeline.fanouts[self._task][variant])
        return measured

    def _note(self, key: tuple[int, int], measured: Measured) -> None:
        server_type, variant = key
        pipeline = self._servers.pipelines[server_type]
        task = pipeline.tasks[self._task]
        children = [pipeline.tasks[child].name for child in pipeline.children[self._task]]
        fanout = dict(zip(children, (gauge.value for gauge in measured.fanouts), strict=True))
        name = self._servers.types[server_type].name
        self.found[key] = Drift(task.name, task.variants[variant].name, name, measured.slowdown.value, fanout)
