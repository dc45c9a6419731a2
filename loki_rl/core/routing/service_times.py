"""How long the batches of one task take on each type of server: as profiled, until measured otherwise."""

from __future__ import annotations

from collections.abc import Iterable

from loki_rl.core.messages import Result
from loki_rl.core.plan import Drift
from loki_rl.core.servers.drift import DriftWatch
from loki_rl.core.servers.servers import Servers


class ServiceTimes:
    """of: type of server -> variant -> number of items -> service time [s]."""

    def __init__(self, servers: Servers, task: int) -> None:
        self._profiled = [one.service_s[task] for one in servers.pipelines]
        self._latencies = [one.latencies[task] for one in servers.pipelines]
        self._watch = DriftWatch(servers, task)
        self.of = [list(variants) for variants in self._profiled]

    def given(self, batch: int, server_type: int, variant: int, items: int) -> float:
        """A server has got a batch; how long it should take at most, as a rule (its p99 [s])."""
        self._watch.given(batch, (server_type, variant), items)
        return self._watch.slowdown(server_type, variant) * self._latencies[server_type][variant][items].p99

    def slowdown(self, server_type: int, variant: int) -> float:
        """Measured service time over the profiled one."""
        return self._watch.slowdown(server_type, variant)

    def record(self, result: Result, server_type: int, now: float) -> bool:
        """Count a batch that ended; whether times have changed for it."""
        return self._watch.record(result, now) and self._adopt((server_type,))

    def adopt(self, found: list[Drift]) -> None:
        """Go on from what was found before."""
        self._watch.adopt(found)
        self._adopt(range(len(self.of)))

    @property
    def drift(self) -> list[Drift]:
        """What is not as profiled."""
        return list(self._watch.found.values())

    @property
    def levels(self) -> dict[str, float]:
        """Name of a type of server -> measured over profiled service time there; none where nothing was measured."""
        return dict(self._watch.levels)

    @property
    def least(self) -> float:
        """As of `levels`, of the type that is furthest ahead of its profile; 1 if none is."""
        return min(1.0, *self._watch.levels.values(), 1.0)

    def _adopt(self, types: Iterable[int]) -> bool:
        for server_type in types:
            for variant, profiled in enumerate(self._profiled[server_type]):
                slowdown = self._watch.slowdown(server_type, variant)
                self.of[server_type][variant] = tuple(slowdown * seconds for seconds in profiled)
        return True
