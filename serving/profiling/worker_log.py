"""What the workers of a plane really took, as their journals tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from loki_rl.core.effects import Effect, Load, Run
from loki_rl.core.journal import JournalEntry, JournalError, effects_of, event_of, read
from loki_rl.core.messages import BatchDone, Event, Loaded
from loki_rl.core.requests.items import size

K = TypeVar("K")
V = TypeVar("V")


class Batch(Struct, frozen=True):
    """One batch: from the order to run it to the word that it ended [s], ways to and from the engine's thread included.
    waited: part of it in which the engine's thread had no core [s]."""

    worker: str
    task: int
    variant: int
    items: int
    begin: float
    end: float
    waited: float = 0.0

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class ModelLoad(Struct, frozen=True):
    """One load: from the order to the word that it is warm [s]."""

    worker: str
    task: int
    variant: int
    begin: float
    end: float


class WorkerLog(Struct):
    """What ended well on all workers, in the order of the ends on each."""

    batches: list[Batch] = []
    loads: list[ModelLoad] = []


def read_workers(folder: Path) -> WorkerLog:
    """The journals that the workers of a plane left in this folder. Raises JournalError."""
    log = WorkerLog()
    for file in sorted(folder.glob("workers-*.journal")):
        _, entries = read([file.read_bytes()])
        _Reader(log).read(entries)
    return log


class _Reader:
    """Of one process: joins orders and answers."""

    def __init__(self, log: WorkerLog) -> None:
        self._log = log
        self._runs: dict[tuple[str, int], tuple[float, Run]] = {}
        self._loads: dict[tuple[str, int, int], float] = {}

    def read(self, entries: Iterator[JournalEntry]) -> None:
        for entry in entries:
            self._answer(entry.address, entry.now, event_of(entry))
            for effect in effects_of(entry):
                self._order(entry.address, entry.now, effect)

    def _order(self, worker: str, now: float, effect: Effect) -> None:
        if isinstance(effect, Run):
            self._runs[worker, effect.batch] = now, effect
        elif isinstance(effect, Load):
            self._loads[worker, effect.task, effect.variant] = now

    def _answer(self, worker: str, now: float, event: Event) -> None:
        if isinstance(event, BatchDone) and not event.error:
            begin, run = _ordered(self._runs, (worker, event.batch))
            self._log.batches.append(Batch(worker, run.task, run.variant, size(run.families), begin, now, event.waited))
        elif isinstance(event, Loaded) and not event.error:
            begin = _ordered(self._loads, (worker, event.task, event.variant))
            self._log.loads.append(ModelLoad(worker, event.task, event.variant, begin, now))


def _ordered(orders: dict[K, V], key: K) -> V:
    """The order that this answers; it is answered once."""
    if key not in orders:
        raise JournalError(f"the journal has an answer to an order that it has not: {key}")
    return orders.pop(key)
