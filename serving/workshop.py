"""The engine of a worker, made from the description of a plane. Owns the choice of device; must not know actors or threads.
Imports the runtime only where it is used: an emulated plane needs none."""

from __future__ import annotations

from loki_rl.config import load_pipeline
from loki_rl.serving.engine import Engine
from loki_rl.serving.plane import PlaneFile


def make_engine(plane: PlaneFile, worker: int) -> Engine:
    """Raises EngineError where the host cannot run it, ConfigError where the pipeline file is at fault."""
    from loki_rl.serving.onnx_engine import OnnxEngine

    pipeline = plane.options.pipeline
    file = load_pipeline(plane.pipeline_file, need_profile=False)
    sizes = {(task.name, variant.name): sorted(variant.latency) for task in pipeline.tasks for variant in task.variants}
    device = device_of(plane.device, worker)
    return OnnxEngine(file.models, file.repository, device, sizes=sizes, padded=pipeline.padded)


def device_of(devices: str, worker: int) -> str:
    """The device of one worker: "cuda:0,1" deals them out in turn."""
    kind, colon, numbers = devices.partition(":")
    choice = numbers.split(",")
    return f"{kind}:{choice[worker % len(choice)]}" if colon else devices
