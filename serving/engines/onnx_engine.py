"""The engine that runs real models with ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort
from msgspec import Struct

from loki_rl.files.config import ModelSpec
from loki_rl.serving.engines.adapter import (
    Adapter,
    AdapterError,
    Array,
    PayloadError,
    Prepared,
    Produced,
    SessionIO,
    adapter_class,
    alike,
)
from loki_rl.serving.engines.core_time import ThreadTime, busy_time_of_now, thread_time_of_now, waits_are_told
from loki_rl.serving.engines.cuda_events import CudaEvents, cuda_events
from loki_rl.serving.engines.device import Device
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.files import ModelError
from loki_rl.serving.engines.model_repository import Declared, StoredModel, find_model
from loki_rl.serving.engines.providers import Shapes, engine_cache, providers
from loki_rl.serving.engines.sessions import BoundSession, choose_device, open_session, ports, preload_libraries

log = logging.getLogger(__name__)

Key = tuple[str, str]
Rows = dict[str, Array]  # of one item, by output


class Resident(Struct):
    """A loaded variant. bound: its device buffers, None on a CPU."""

    session: ort.InferenceSession
    adapter: Adapter
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bound: BoundSession | None


class OnnxEngine:
    """models: (task, variant) -> what to run, as in a pipeline file. repository: folder as in model_repository. device: as
    in sessions.choose_device. sizes: (task, variant) -> profiled batch sizes; a batch is padded to the next of them if
    `padded`. memory_mb: most that a session may take of a GPU. timed: tell GPU time by CUDA events, where that is possible
    (`events`). Raises EngineError."""

    def __init__(
        self,
        models: Mapping[Key, ModelSpec],
        repository: Path,
        device: str = "auto",
        *,
        sizes: Mapping[Key, Sequence[int]] | None = None,
        padded: bool = False,
        memory_mb: float = float("inf"),
        timed: bool = False,
    ) -> None:
        self.models, self.repository = models, repository
        self.memory_mb = memory_mb
        self.device: Device = choose_device(device)
        # What is captured or built into an engine may run on streams of its own.
        plain = self.device.kind == "cuda" and not self.device.option
        self.events = _events(self.device) if timed and plain else None
        self.padded = padded
        self.sizes = {key: tuple(sorted(batches)) for key, batches in (sizes or {}).items()}
        self.residents: dict[Key, Resident] = {}

    def load(self, task: str, variant: str) -> float:
        """Open the session and warm it up; how long that took [s]. Raises EngineError."""
        start = perf_counter()
        if (task, variant) not in self.residents:
            resident = self._open(task, variant)
            self._warm(task, variant, resident)
            self.residents[task, variant] = resident
        return perf_counter() - start

    def unload(self, task: str, variant: str) -> None:
        """Close the session; its memory goes back with it."""
        self.residents.pop((task, variant), None)

    def run(self, task: str, variant: str, payloads: Sequence[Array]) -> list[Produced]:
        """One result per payload. Raises EngineError if the variant is not resident or the model fails."""
        resident = self.residents.get((task, variant))
        if resident is None:
            raise EngineError(f"variant '{variant}' of task '{task}' is not loaded")
        items = [_prepared(resident.adapter, payload) for payload in payloads]
        good = [item for item in items if isinstance(item, Prepared)]
        rows = iter(self._rows(resident, [item.inputs for item in good], partial(self.padded_size, task, variant)))
        return [_finished(resident.adapter, next(rows), item) if isinstance(item, Prepared) else item for item in items]

    def sample(self, task: str, variant: str) -> Array:
        """A valid payload for a resident variant."""
        return self.residents[task, variant].adapter.sample()

    def look(self, task: str, variant: str, count: int, budget_s: float) -> list[float]:
        """How long so many sample items take one by one [s]; fewer, but at least one, where the budget [s] is spent."""
        payload, start = [self.sample(task, variant)], self.now()
        self.run(task, variant, payload)
        times: list[float] = []
        while not times or (len(times) < count and self.now().wall - start.wall < budget_s):
            before = self.now()
            self.run(task, variant, payload)
            times.append(self.now().since(before).own)
        return times

    def now(self) -> ThreadTime:
        """Time of the calling thread by which runs are told apart from waiting. While a GPU works its thread waits for it,
        which is service time: only events can tell that from other waits."""
        if self.events is not None:
            return self.events.now()
        return thread_time_of_now() if self.device.on_gpu or waits_are_told() else busy_time_of_now()

    def _open(self, task: str, variant: str) -> Resident:
        spec = self.models.get((task, variant))
        if spec is None:
            raise EngineError(f"variant '{variant}' of task '{task}' names no model in the pipeline file")
        stored = self._find(task, variant, spec.model)
        sizes = self.sizes.get((task, variant), (1,))
        try:
            session, adapter, io = self._session(stored, spec, sizes)
        except (AdapterError, ModelError) as error:
            raise EngineError(f"variant '{variant}' of task '{task}': {error}") from error
        return Resident(
            session,
            adapter,
            tuple(port.name for port in io.inputs),
            tuple(port.name for port in io.outputs),
            BoundSession(session, self.device, self.events) if self.device.on_gpu else None,
        )

    def _session(
        self, stored: StoredModel, spec: ModelSpec, sizes: Sequence[int]
    ) -> tuple[ort.InferenceSession, Adapter, SessionIO]:
        """TensorRT builds for the shapes that will come, which the model leaves open and its adapter knows: that needs the
        model's ports, so a session on the CPU tells them first."""
        if self.device.kind != "tensorrt":
            stream = 0 if self.events is None else self.events.stream
            session = open_session(stored.file, self.device, providers(self.device, self.memory_mb, stream=stream))
            return session, *_adapted(session, stored, spec, sizes, self.device)
        adapter, io = _adapted(open_session(stored.file, Device("cpu")), stored, spec, sizes, self.device)
        shapes = Shapes({name: item.shape for name, item in adapter.prepare(adapter.sample()).inputs.items()}, sizes)
        with engine_cache(self.repository, stored.folder.name, shapes) as cache:
            asked = providers(self.device, self.memory_mb, shapes, cache)
            return open_session(stored.file, self.device, asked), adapter, io

    def _find(self, task: str, variant: str, model: str) -> StoredModel:
        try:
            return find_model(self.repository, model)
        except ModelError as error:
            raise EngineError(f"variant '{variant}' of task '{task}': {error}") from error

    def _warm(self, task: str, variant: str, resident: Resident) -> None:
        """Run what the first batches would otherwise pay for: every size where sizes are padded (a GPU searches its
        algorithms per shape), else one item: on a CPU without memory patterns a new size costs nothing extra."""
        inputs = resident.adapter.prepare(resident.adapter.sample()).inputs
        for size in self.sizes.get((task, variant), (1,)) if self.padded else (1,):
            self.infer(resident, [inputs] * size, size)

    def padded_size(self, task: str, variant: str, count: int) -> int:
        """The profiled batch that holds `count` items; `count` itself if none does or nothing is padded."""
        sizes = self.sizes.get((task, variant), ()) if self.padded else ()
        return next((size for size in sizes if size >= count), count)

    def _rows(
        self, resident: Resident, items: Sequence[Mapping[str, Array]], padded: Callable[[int], int]
    ) -> Sequence[Rows | EngineError]:
        """For each item its rows of the outputs; items of one shape run together. Raises EngineError if all fail."""
        found: dict[int, Rows | EngineError] = {}
        for places in alike(items):
            found |= zip(places, self._together(resident, [items[place] for place in places], padded), strict=True)
        rows = [found[place] for place in range(len(items))]
        failures = [row for row in rows if isinstance(row, EngineError)]
        if failures and len(failures) == len(rows):
            raise failures[0]
        return rows

    def _together(
        self, resident: Resident, items: Sequence[Mapping[str, Array]], padded: Callable[[int], int]
    ) -> Sequence[Rows | EngineError]:
        """The rows of items of one shape. A batch that fails is run item by item: those that fail alone have failed."""
        try:
            return self.infer(resident, items, padded(len(items)))
        except EngineError as error:
            if len(items) < 2:
                return [error]
        return [self._alone(resident, item, padded(1)) for item in items]

    def _alone(self, resident: Resident, item: Mapping[str, Array], size: int) -> Rows | EngineError:
        try:
            return self.infer(resident, [item], size)[0]
        except EngineError as error:
            return error

    def infer(self, resident: Resident, items: Sequence[Mapping[str, Array]], size: int) -> list[Rows]:
        """For each prepared item its rows of the outputs, of a batch of this size. Raises EngineError."""
        try:
            inputs = {name: _batch([item[name] for item in items], size) for name in resident.inputs}
            outputs = resident.bound.run(inputs) if resident.bound else resident.session.run(None, inputs)
        except Exception as error:  # the runtime raises a class of its own per error code, without a common public base
            raise EngineError(f"the model failed on a batch of {len(items)}: {error}") from error
        return [
            {name: output[row] for name, output in zip(resident.outputs, outputs, strict=True)} for row in range(len(items))
        ]


def _events(device: Device) -> CudaEvents | None:
    preload_libraries()
    return cuda_events(device.index)


def _adapted(
    session: ort.InferenceSession, stored: StoredModel, spec: ModelSpec, sizes: Sequence[int], device: Device
) -> tuple[Adapter, SessionIO]:
    """The adapter around a model's ports, as it is to run on `device`. Raises AdapterError or ModelError."""
    io = SessionIO(stored.folder, ports(session.get_inputs()), ports(session.get_outputs()), device.on_gpu)
    stored.check({port.name: _declared(port) for port in (*session.get_inputs(), *session.get_outputs())}, max(sizes))
    return adapter_class(spec.adapter)(io, spec.options), io


def _declared(port: ort.NodeArg) -> Declared:
    return Declared(port.type, tuple(size if isinstance(size, int) else -1 for size in port.shape))


def _prepared(adapter: Adapter, payload: Array) -> Prepared | Produced:
    try:
        return adapter.prepare(payload)
    except Exception as error:
        return _failed(adapter, error)


def _finished(adapter: Adapter, rows: Rows | EngineError, item: Prepared) -> Produced:
    if isinstance(rows, EngineError):
        return Produced(error=str(rows), to_blame=False)
    try:
        return adapter.finish(rows, item.kept)
    except Exception as error:
        return _failed(adapter, error)


def _failed(adapter: Adapter, error: Exception) -> Produced:
    """Adapters are the user's code: what they did not foresee is a bug, whose trace belongs in the log."""
    if isinstance(error, PayloadError):
        return Produced(error=str(error))
    log.error("%s failed on a payload", type(adapter).__name__, exc_info=error)
    return Produced(error=f"{type(adapter).__name__} failed on it: {error or type(error).__name__}", to_blame=False)


def _batch(rows: list[Array], size: int) -> Array:
    """Rows under a batch axis of `size`, zeros after the last one; a single row is not copied."""
    if len(rows) == size == 1:
        return rows[0][np.newaxis]
    batch = np.zeros((size, *rows[0].shape), rows[0].dtype)
    for place, row in zip(batch, rows, strict=False):
        place[...] = row
    return batch
