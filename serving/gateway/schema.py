"""What clients of a plane may send and will get: the description of its tensors and the check of a payload."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import zmq
from msgspec.structs import replace

from loki_rl.core.pipeline import Pipeline
from loki_rl.files.config import load_pipeline
from loki_rl.serving.engines.adapter import Adapter, PayloadError, adapter_class
from loki_rl.serving.gateway.client_socket import Check
from loki_rl.serving.plane import PlaneFile
from loki_rl.serving.transport.protocol import NO_ID, Described, TaskVariants, Tensor
from loki_rl.serving.transport.shared_memory import GATEWAY_KEEPS, SharedMemory
from loki_rl.serving.transport.wire import DATATYPES, Array, WireError, unpack

log = logging.getLogger(__name__)

PICTURE, TEXT = Tensor("image", "BYTES", (1,)), Tensor("text", "BYTES", (-1,))


def described(plane: PlaneFile) -> Described:
    """An emulated engine looks at no payload and makes no output: what it answers is the path that served each leaf.
    Adapters may name their own tensors (see Adapter)."""
    pipeline = plane.options.pipeline
    source, result = Tensor("input", "BYTES", (1,), optional=True), Tensor("path", "BYTES", (-1,))
    if plane.engine != "emulated":
        source = _named(adapters_of(pipeline, plane.pipeline_file, pipeline.entries), "takes", PICTURE)
        result = _named(adapters_of(pipeline, plane.pipeline_file, pipeline.leaves), "gives", TEXT)
    told = describe(pipeline, plane.engine, source, result, plane.options.grace_s)
    return replace(told, memory=plane.memory, traced=bool(plane.traces.endpoint))


def describe(pipeline: Pipeline, engine: str, input: Tensor, output: Tensor, grace_s: float | None = None) -> Described:
    """What clients may know of a pipeline served by this engine."""
    tasks = tuple(
        TaskVariants(task.name, tuple(v.name for v in task.variants), task.parent or "", max(pipeline.max_batch[place]))
        for place, task in enumerate(pipeline.tasks)
    )
    grace = pipeline.slo_s if grace_s is None else grace_s
    return Described(NO_ID, pipeline.name, pipeline.slo_s, grace, engine, tasks, input, output)


def _named(adapters: list[type[Adapter]], what: str, usual: Tensor) -> Tensor:
    found: Tensor = next((getattr(adapter, what) for adapter in adapters if hasattr(adapter, what)), usual)
    return found


def payload_check(plane: PlaneFile) -> Check:
    """What would be wrong with a payload, before it enters the queue of an entry task."""
    pipeline = plane.options.pipeline
    emulated = plane.engine == "emulated"
    adapters = [] if emulated else adapters_of(pipeline, plane.pipeline_file, pipeline.entries)
    return PayloadCheck(adapters, SharedMemory(plane.memory))


def adapters_of(pipeline: Pipeline, file: str, tasks: Sequence[int]) -> list[type[Adapter]]:
    """Those of these tasks, each once."""
    models = load_pipeline(file, need_profile=False).models
    names = {pipeline.tasks[task].name for task in tasks}
    return [adapter_class(name) for name in sorted({spec.adapter for (task, _), spec in models.items() if task in names})]


class PayloadCheck:
    """What these adapters say of a payload. They are code of the pipeline's author: whatever they raise refuses the request
    and nothing else. memory: where large ones are; one that is refused goes from there."""

    def __init__(self, adapters: Sequence[type[Adapter]], memory: SharedMemory) -> None:
        self._adapters = adapters
        self._memory = memory
        self._told: set[tuple[type[Adapter], type[Exception]]] = set()

    def __call__(self, frame: zmq.Frame | None) -> str | None:
        if frame is None:
            return "a tensor is missing" if self._adapters else None
        fault = self._fault(frame)
        if fault is not None:
            self._memory.free(frame, GATEWAY_KEEPS)
        return fault

    def _fault(self, frame: zmq.Frame) -> str | None:
        try:
            payload = unpack(self._memory.read(frame))
        except WireError as error:
            return str(error)
        return next((fault for adapter in self._adapters if (fault := self._of(adapter, payload)) is not None), None)

    def _of(self, adapter: type[Adapter], payload: Array) -> str | None:
        if (fault := _unlike(getattr(adapter, "takes", PICTURE), payload)) is not None:
            return fault
        try:
            adapter.check(payload)
        except PayloadError as error:
            return str(error)
        except Exception as error:
            if (adapter, type(error)) not in self._told:
                self._told.add((adapter, type(error)))
                log.exception("%s.check failed; its requests are refused, and this is told once", adapter.__name__)
            return f"{adapter.__name__} cannot check this payload ({type(error).__name__}); the server's log says more"
        return None


def _unlike(takes: Tensor, payload: Array) -> str | None:
    """What is wrong with an array for which numbers of a type and shape are declared. What bytes may hold, `check` knows."""
    datatype = DATATYPES.get(payload.dtype, str(payload.dtype))
    sizes = zip(takes.shape, payload.shape, strict=False)
    alike = len(takes.shape) == payload.ndim and all(declared in (-1, size) for declared, size in sizes)
    if takes.datatype == "BYTES" or (datatype == takes.datatype and alike):
        return None
    return f"'{takes.name}' is {takes.datatype} of shape {list(takes.shape)}, not {datatype} of shape {list(payload.shape)}"
