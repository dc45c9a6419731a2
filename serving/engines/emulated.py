"""The engine that waits the profiled time instead of computing, for all workers of a process."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from loki_rl.core.draws import batch_seconds, fanouts
from loki_rl.core.effects import Effect, Load, Run, Unload
from loki_rl.core.messages import BatchDone, Event, Loaded, number_of
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import members, size
from loki_rl.core.servers.servers import Servers
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.timers import Timers
from loki_rl.serving.transport.wire import Letter


class EmulatedEngine:
    """Service times and fan-outs come from the keyed draws, so that the twin sees the same. Times are absolute: a batch
    that waits behind another begins when that one ends, however late this process notices.

    ended: batches and loads reported; late_s: how late in all; latest_s: the worst.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self.ended = 0
        self.late_s = 0.0
        self.latest_s = 0.0
        self._options = options
        self._servers = Servers(options)
        self._timers = Timers()
        self._busy_until: dict[str, float] = {}

    @property
    def handle(self) -> int:
        return self._timers.handle

    def carry(self, address: str, effect: Effect, now: float) -> None:
        """Begin what a worker asks for."""
        match effect:
            case Run():
                self._run(address, effect, now)
            case Load(task, variant):
                seconds = self._as_run(address).tasks[task].variants[variant].load_s
                self.end(now + seconds, address, Loaded(task, variant, seconds))
            case Unload():
                pass  # nothing is in memory
            case _:
                raise TypeError(f"an engine cannot carry out {type(effect).__name__}")

    def collect(self, now: float) -> Iterable[Delivery]:
        """Everything due by now."""
        return self._timers.collect(now)

    def close(self) -> None:
        self._timers.close()

    def seconds(self, address: str, run: Run) -> float:
        """How long a batch takes [s]."""
        pipeline = self._as_run(address)
        return batch_seconds(self._options.seed, pipeline, run.batch, run.task, run.variant, size(run.families))

    def _run(self, address: str, run: Run, now: float) -> None:
        seed, pipeline, seconds = self._options.seed, self._as_run(address), self.seconds(address, run)
        made: list[tuple[int, ...]] = []
        if pipeline.children[run.task]:
            items = members(pipeline, run.task, run.families)
            made = [fanouts(seed, pipeline, item, run.task, run.variant) for item in items]
        end = max(now, self._busy_until.get(address, now)) + seconds
        self._busy_until[address] = end
        self.end(end, address, BatchDone(run.batch, made, seconds))

    def _as_run(self, address: str) -> Pipeline:
        """The pipeline as the type of this worker's server runs it."""
        return self._servers.pipelines[self._servers.type_of(number_of(address))]

    def end(self, at: float, address: str, event: Event) -> None:
        """Tell a worker of this at a time [s]."""
        self._timers.at(at, partial(self._report, at, address, event))

    def _report(self, at: float, address: str, event: Event, now: float) -> list[Delivery]:
        self.ended += 1
        self.late_s += now - at
        self.latest_s = max(self.latest_s, now - at)
        return [(Letter(address, event, ()), ())]
