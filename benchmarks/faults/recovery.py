"""When the items in the hands of a stopped worker were given to others, and when its successor served, as the routers wrote
it down. Owns the reading of their journals; must not know what stopped it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import nan
from pathlib import Path

from msgspec import Struct

from loki_rl.core.families import Family, members, size
from loki_rl.core.journal import read
from loki_rl.core.messages import Execute, Ready, Result, Send, Settled, effects_decoder, event_decoder, number_of
from loki_rl.core.pipeline import Pipeline


class Recovery(Struct):
    """life: incarnation of the process that follows. Times of the monotonic clock [s], NaN for what never happened. at: when
    it stopped. batch_s: what its batch should have taken (p99), 0 if it had none. found: when the last item it had was given
    to another or ended. serving: when a router had a credit of its successor."""

    at: float
    worker: int
    life: int
    batch_s: float = 0.0
    found: float = nan
    serving: float = nan

    @property
    def found_s(self) -> float:
        return self.found - self.at


class _Batch(Struct):
    worker: int
    items: frozenset[int]
    usual_s: float


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
        self._out: dict[int, _Batch] = {}
        self._orphans: dict[int, Recovery] = {}  # items of stopped workers
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
        batches = [batch for batch in self._out.values() if batch.worker == stop.worker]
        for batch in batches:
            self._orphans.update(dict.fromkeys(batch.items, stop))
        if batches:
            stop.batch_s = batches[0].usual_s
        self._away[stop.worker] = stop

    def _hear(self, event: object, now: float) -> None:
        match event:
            case Result(worker=number, batch=batch):
                gone = self._out.pop(batch, None)
                if gone is not None and gone.worker == number:
                    for item in gone.items:  # it was on its way when the worker stopped
                        self._orphans.pop(item, None)
            case Ready(worker=number, incarnation=incarnation):
                stop = self._away.get(number)
                if stop is not None and incarnation >= stop.life and not stop.serving < now:
                    stop.serving = now

    def _follow(self, effect: object, now: float) -> None:
        match effect:
            case Send(to=to, message=Execute(batch=batch, variant=variant, families=families)):
                items = frozenset(members(self._pipeline, self._task, families))
                self._freed(items, now)
                self._out[batch] = _Batch(number_of(to), items, self._usual_s(variant, families))
            case Send(message=Settled(families=families)):
                self._freed(members(self._pipeline, self._task, families), now)

    def _usual_s(self, variant: int, families: list[Family]) -> float:
        return self._pipeline.latencies[self._task][variant][size(families)].p99

    def _freed(self, items: Iterable[int], now: float) -> None:
        for item in items:
            stop = self._orphans.pop(item, None)
            if stop is not None:
                stop.found = now
