"""When the items in the hands of a stopped worker were given to others, and when its successor served, as the routers wrote
it down. Owns the reading of their journals; must not know what stopped it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from loki_rl.core.effects import Send, effects_decoder
from loki_rl.core.journal import read
from loki_rl.core.messages import Ended, Execute, Ready, Result, event_decoder, number_of
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import Family, members, size


class Recovery(Struct):
    """life: incarnation of the process that follows. Times of the monotonic clock [s], NaN for what never happened. at: when
    it stopped. held: batches that it had, or was given before it was found. serving: when a router had a credit of its
    successor."""

    at: float
    worker: int
    life: int
    held: list[Batch] = []
    serving: float = math.nan


class Batch(Struct):
    """begun: when it was given, or its worker stopped [s]. usual_s: what it should have taken (p99). found, given: when
    the first and the last of its items were given to other workers, or ended [s]: each goes alone, to one that is free."""

    worker: int
    items: frozenset[int]
    begun: float
    usual_s: float
    found: float = math.nan
    given: float = math.nan

    @property
    def late_s(self) -> float:
        """How long after twice its usual time it was found."""
        return self.found - self.begun - 2 * self.usual_s


def recoveries(journals: Path, pipeline: Pipeline, stops: Sequence[tuple[float, int]]) -> list[Recovery]:
    """stops: when [s], and which worker. Every worker is the only one of its process. Raises JournalError."""
    before = Counter[int]()
    found = []
    for at, number in stops:
        before[number] += 1
        found.append(Recovery(at, number, before[number]))
    for task in range(len(pipeline.tasks)):
        _Reader(pipeline, task, found).read(journals / f"router-{task}.0.journal")
    return found


class _Reader:
    """Of the journal of one router."""

    def __init__(self, pipeline: Pipeline, task: int, stops: list[Recovery]) -> None:
        self._pipeline, self._task = pipeline, task
        self._stops = stops  # by time
        self._begun = 0
        self._out: dict[int, Batch] = {}
        self._orphans: dict[int, Batch] = {}  # items of stopped workers
        self._away: dict[int, Recovery] = {}  # worker -> its latest stop

    def read(self, file: Path) -> None:
        with file.open("rb") as stream:
            _, entries = read(iter(lambda: stream.read(1 << 20), b""))
            for entry in entries:
                while self._begun < len(self._stops) and self._stops[self._begun].at <= entry.now:
                    self._stop(self._stops[self._begun])
                    self._begun += 1
                self._hear(event_decoder.decode(entry.event), entry.now)
                for effect in effects_decoder.decode(entry.effects):
                    self._follow(effect, entry.now)

    def _stop(self, stop: Recovery) -> None:
        self._away[stop.worker] = stop
        for batch in self._out.values():
            if batch.worker == stop.worker:
                batch.begun = stop.at
                self._hold(stop, batch)

    def _hold(self, stop: Recovery, batch: Batch) -> None:
        stop.held.append(batch)
        self._orphans.update(dict.fromkeys(batch.items, batch))

    def _hear(self, event: object, now: float) -> None:
        match event:
            case Result(worker=number, batch=batch):
                gone = self._out.pop(batch, None)
                stop = self._away.get(number)
                if gone is not None and stop is not None and gone in stop.held:  # its result was on its way
                    stop.held.remove(gone)
                    for item in gone.items:
                        self._orphans.pop(item, None)
            case Ready(worker=number, incarnation=incarnation):
                stop = self._away.get(number)
                if stop is not None and incarnation >= stop.life:
                    # Another router may have had it first: a server goes from task to task.
                    stop.serving = now if math.isnan(stop.serving) else min(stop.serving, now)
                    del self._away[number]

    def _follow(self, effect: object, now: float) -> None:
        match effect:
            case Send(to=to, message=Execute(batch=batch, variant=variant, families=families)):
                items = frozenset(members(self._pipeline, self._task, families))
                self._freed(items, now)
                given = self._out[batch] = Batch(number_of(to), items, now, self._usual_s(variant, families))
                if given.worker in self._away:
                    self._hold(self._away[given.worker], given)
            case Send(message=Ended(families=families)):
                self._freed(members(self._pipeline, self._task, families), now)

    def _usual_s(self, variant: int, families: list[Family]) -> float:
        return self._pipeline.latencies[self._task][variant][size(families)].p99

    def _freed(self, items: Iterable[int], now: float) -> None:
        for item in items:
            batch = self._orphans.pop(item, None)
            if batch is not None:
                batch.found = now if math.isnan(batch.found) else batch.found
                batch.given = now
