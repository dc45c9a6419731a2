"""One worker's real engine beside the driver's loop: models run and load in threads, results come back as events."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from loki_rl.core.effects import Effect, Load, Run, Unload
from loki_rl.core.messages import BatchDone, Event, Fault, Loaded
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.items import members
from loki_rl.serving.engines.adapter import Produced
from loki_rl.serving.engines.core_time import thread_time_of_now
from loki_rl.serving.engines.engine import Engine, EngineError
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.event_queue import EventQueue
from loki_rl.serving.transport.payloads import WorkerPayloads
from loki_rl.serving.transport.serial_executor import SerialExecutor
from loki_rl.serving.transport.shared_memory import GATEWAY_KEEPS, SharedMemory, of_task
from loki_rl.serving.transport.wire import Array, Frame, Letter, WireError, unpack

log = logging.getLogger(__name__)

# A model that was loaded runs so many sample items before the first batch: for so long [s], and one more that has begun by
# then. One whose sample takes longer than MOST_S [s] waits for none of this.
LOOKS, LOOK_S, MOST_S = 3, 0.15, 0.05

# A batch that ends within this time [s] runs in the driver's loop, which hears nothing meanwhile: to wake a thread and be
# woken by it takes a tenth of a millisecond on cores that halt.
SHORT_S = 0.002

NO_OUTPUT: Array = np.zeros(0, dtype=np.uint8)


class Made(NamedTuple):
    """Of a batch. fanouts: per item (none at a leaf task). ids, frames: of all children (of the items themselves at a leaf
    task), in order. faults: place of an item -> why it has no result; its fan-out is empty."""

    fanouts: list[tuple[int, ...]]
    ids: list[int]
    frames: list[Frame]
    faults: dict[int, Fault]


class ThreadedEngine:
    """Batches run in the order given, short ones when the driver says `run_short`. Where a model is loaded while the old one
    serves (swap: make), loads have a thread of their own. finished: where BatchDone and Loaded go. memory: where large
    tensors are."""

    def __init__(
        self,
        address: str,
        pipeline: Pipeline,
        engine: Engine,
        payloads: WorkerPayloads,
        finished: EventQueue[Delivery],
        memory: SharedMemory,
    ) -> None:
        self._address = address
        self._pipeline = pipeline
        self._engine = engine
        self._payloads = payloads
        self._finished = finished
        self._looked: set[tuple[int, int]] = set()
        self._memory = memory
        self._short: deque[Callable[[], None]] = deque()
        # Errands of the thread for batches: those given to it, and, which only it writes, those that it has done.
        self._given = self._done = 0
        self._runs = SerialExecutor(f"{address} runs")
        self._loads = self._runs if pipeline.swap == "break" else SerialExecutor(f"{address} loads")

    def carry(self, effect: Effect, _now: float) -> None:
        """Begin what the worker asks for."""
        match effect:
            case Run():
                self._begin(effect, partial(self._run, effect, self._payloads.take(effect.batch)))
            case Load() if self._loads is self._runs:
                self._give(partial(self._load, effect))
            case Load():
                self._loads.put(partial(self._load, effect))
            case Unload():
                # Behind the batches that may still use it.
                self._give(partial(self._engine.unload, *self._names(effect.task, effect.variant)))
            case _:
                raise TypeError(f"an engine cannot carry out {type(effect).__name__}")

    def run_short(self) -> None:
        """Run what ends at once; once the messages of the burst are on their way."""
        while self._short:
            self._short.popleft()()

    def close(self, timeout_s: float) -> None:
        for executor in {self._runs, self._loads}:
            executor.close(timeout_s)

    def _begin(self, run: Run, batch: Callable[[], None]) -> None:
        """In the loop, if it is short and nothing that came before it is still with the thread."""
        rows = self._pipeline.tasks[run.task].variants[run.variant].latency.values()
        if self._given == self._done and all(row.p99 <= SHORT_S for row in rows):
            self._short.append(batch)
        else:
            self._give(batch)

    def _give(self, errand: Callable[[], None]) -> None:
        """To the thread for batches, after what waits for the loop."""
        self.run_short()
        self._given += 1
        self._runs.put(partial(self._do, errand))

    def _do(self, errand: Callable[[], None]) -> None:
        errand()
        self._done += 1

    # -- in the threads, and what is short in the loop ------------------------------------------------------------------

    def _load(self, load: Load) -> None:
        start, error = time.monotonic(), ""
        try:
            self._engine.load(*self._names(load.task, load.variant))
        except Exception as failure:
            error = self._told(failure)
        seconds = time.monotonic() - start
        self._tell(Loaded(load.task, load.variant, seconds, error, [] if error else self._looks(load)))

    def _looks(self, load: Load) -> list[float]:
        """Whether a model takes as long as when it was profiled; once, since what changes later is seen in service."""
        usual_s = self._pipeline.tasks[load.task].variants[load.variant].sample_s
        if not 0.0 < usual_s <= MOST_S or (load.task, load.variant) in self._looked:
            return []
        self._looked.add((load.task, load.variant))
        try:
            times = self._engine.look(*self._names(load.task, load.variant), LOOKS, LOOK_S)
        except EngineError:
            return []  # the first batch will tell
        return [seconds / usual_s for seconds in times]

    def _run(self, run: Run, frames: dict[int, Frame]) -> None:
        start, error = thread_time_of_now(), ""
        made = Made([], [], [], {})
        try:
            items = members(self._pipeline, run.task, run.families)
            produced = self._produced(run, [frames[item] for item in items])
            made = collect(self._pipeline, run.task, items, produced, self._memory)
        except KeyError as missing:
            error = f"item {missing} came without its payload"
        except Exception as failure:
            error = self._told(failure)
        took = thread_time_of_now().since(start)
        done = BatchDone(run.batch, made.fanouts, took.wall, error, made.faults, took.waited)
        self._tell(done, made.ids, made.frames)

    def _produced(self, run: Run, frames: Sequence[Frame]) -> list[Produced]:
        """One result per item. A tensor that is gone is that of a request which has ended: the others of the batch go on."""
        payloads = [self._payload(frame) for frame in frames]
        there = [payload for payload in payloads if isinstance(payload, np.ndarray)]
        made = iter(self._engine.run(*self._names(run.task, run.variant), there) if there else ())
        return [next(made) if isinstance(payload, np.ndarray) else payload for payload in payloads]

    def _payload(self, frame: Frame) -> Array | Produced:
        try:
            return unpack(self._memory.read(frame))
        except WireError as error:
            return Produced(error=str(error), to_blame=False)

    def _tell(self, event: Event, ids: Sequence[int] = (), frames: Sequence[Frame] = ()) -> None:
        self._finished.put((Letter(self._address, event, ids), frames))

    def _told(self, failure: Exception) -> str:
        """What to report. A failure that the engine does not foresee is a bug: its trace belongs in the log."""
        if not isinstance(failure, EngineError | WireError):
            log.error("%s: the engine failed", self._address, exc_info=failure)
        return str(failure) or type(failure).__name__

    def _names(self, task: int, variant: int) -> tuple[str, str]:
        found = self._pipeline.tasks[task]
        return found.name, found.variants[variant].name


def collect(pipeline: Pipeline, task: int, items: Sequence[int], produced: Sequence[Produced], memory: SharedMemory) -> Made:
    """What an engine made of a batch, as its router takes it."""
    made = Made([], [], [], {})
    leaf = not pipeline.children[task]
    for place, (item, one) in enumerate(zip(items, produced, strict=True)):
        fanout: tuple[int, ...] = ()
        if one.error:
            made.faults[place] = Fault(one.error, one.to_blame)
        elif leaf:
            made.ids.append(item)
            made.frames.append(memory.pack(GATEWAY_KEEPS, NO_OUTPUT if one.output is None else one.output))
        else:
            fanout = _number(pipeline, task, item, one.children, made, memory)
        if not leaf:
            made.fanouts.append(fanout)
    return made


def _number(
    pipeline: Pipeline, task: int, parent: int, children: Sequence[Sequence[Array]], made: Made, memory: SharedMemory
) -> tuple[int, ...]:
    """Number the children of one item as its router will; more than an id can hold are left out."""
    counts: list[int] = []
    number = 0
    for child, arrays in zip(pipeline.children[task], children, strict=True):
        kept = arrays[: pipeline.max_children - number]
        for array in kept:
            made.ids.append(pipeline.child_id(parent, child, number))
            made.frames.append(memory.pack(of_task(child), array))
            number += 1
        counts.append(len(kept))
    return tuple(counts)
