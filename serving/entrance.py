"""What clients of a plane may send and will get: the description of its tensors and the check of a payload. Owns the choice
by engine; must not know sockets, nor how a request is served."""

from __future__ import annotations

import zmq

from loki_rl.config import load_pipeline
from loki_rl.core.pipeline import Pipeline
from loki_rl.serving.adapters.adapter import Adapter, PayloadError, adapter_class
from loki_rl.serving.front import Check, describe
from loki_rl.serving.plane import PlaneFile
from loki_rl.serving.protocol import Described, Tensor
from loki_rl.serving.wire import WireError, unpack


def described(plane: PlaneFile) -> Described:
    """An emulated engine looks at no payload and makes no output: what it answers is the path that served each leaf."""
    real = plane.engine != "emulated"
    source = Tensor("image", "BYTES", (1,)) if real else Tensor("input", "BYTES", (1,), optional=True)
    result = Tensor("text" if real else "path", "BYTES", (-1,))
    return describe(plane.options.pipeline, plane.engine, source, result, plane.options.grace_s)


def payload_check(plane: PlaneFile) -> Check:
    """What would be wrong with a payload, before it enters the queue of an entry task."""
    adapters = [] if plane.engine == "emulated" else entry_adapters(plane.options.pipeline, plane.pipeline_file)
    return lambda frame: _fault(frame, adapters)


def entry_adapters(pipeline: Pipeline, file: str) -> list[type[Adapter]]:
    models = load_pipeline(file, need_profile=False).models
    names = {pipeline.tasks[entry].name for entry in pipeline.entries}
    return [adapter_class(name) for name in sorted({spec.adapter for (task, _), spec in models.items() if task in names})]


def _fault(frame: zmq.Frame | None, adapters: list[type[Adapter]]) -> str | None:
    if frame is None:
        return "a tensor is missing" if adapters else None
    try:
        payload = unpack(frame)
        for adapter in adapters:
            adapter.check(payload)
    except (WireError, PayloadError) as error:
        return str(error)
    return None
