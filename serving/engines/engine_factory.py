"""The engine of a worker, made from the description of a plane. Imports the runtime only where it is used: an emulated
plane needs none."""

from __future__ import annotations

from loki_rl.core.options import ClusterOptions
from loki_rl.core.servers.servers import Servers
from loki_rl.files.config import load_pipeline
from loki_rl.serving.engines.device import dealt
from loki_rl.serving.engines.engine import Engine
from loki_rl.serving.plane import PlaneFile


def make_engine(plane: PlaneFile, worker: int, device: str) -> Engine:
    """Raises EngineError where the host cannot run it, ConfigError where the pipeline file is at fault."""
    from loki_rl.serving.engines.onnx_engine import OnnxEngine

    servers = Servers(plane.options)
    kind = servers.type_of(worker)
    pipeline = servers.pipelines[kind]
    file = load_pipeline(plane.pipeline_file, need_profile=False)
    sizes = {(task.name, variant.name): sorted(variant.latency) for task in pipeline.tasks for variant in task.variants}
    memory_mb = servers.types[kind].memory_mb
    return OnnxEngine(file.models, file.repository, device, sizes=sizes, padded=pipeline.padded, memory_mb=memory_mb)


def device_of(options: ClusterOptions, devices: str, worker: int) -> str:
    """The device of one worker: one of those of its server's type, in turn, else of `devices`."""
    servers = Servers(options)
    own = servers.types[servers.type_of(worker)].devices
    return own[servers.place_of(worker) % len(own)] if own else dealt(devices, worker)
