"""ONNX Runtime sessions that run where they were asked to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from loki_rl.serving.engines.adapter import Array, Port
from loki_rl.serving.engines.cuda_events import CudaEvents
from loki_rl.serving.engines.device import AUTO, CUDA, GRAPHS, Device, named
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.model_repository import ONNX_TYPES
from loki_rl.serving.engines.providers import Provider, providers

WHEELS = ("onnxruntime", "onnxruntime-gpu")
ADVICE = {
    "cuda": "install onnxruntime-gpu with its cuda and cudnn extras and a matching driver, or use --device cpu",
    "tensorrt": "install onnxruntime-gpu and the tensorrt wheels that it was built for, or use --device cuda",
}
# Of RunOptions: which captured graph a run replays. NO_GRAPH captures nothing.
GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1
# Of RunOptions too: return once the work is handed to the GPU.
UNSYNCHRONISED = "disable_synchronize_execution_providers"


def choose_device(wanted: str) -> Device:
    """The device that a word stands for (see device.WORDS). auto: CUDA if this ONNX Runtime was built for it and a driver is
    loaded, else the CPU. Raises EngineError for another word, for a provider that this build lacks, or if both wheels are
    installed."""
    chosen = choose_devices(wanted)
    if len(chosen) > 1:
        raise EngineError(f"one device is needed here, not '{wanted}'; use cuda:N")
    return chosen[0]


def choose_devices(wanted: str) -> tuple[Device, ...]:
    """As choose_device, and several GPUs for cuda:0,1: workers are dealt out to them in turn."""
    check_wheels()
    if wanted == AUTO:
        return (Device("cuda" if cuda_answers() else "cpu"),)
    devices = named(wanted)
    if devices[0].provider not in ort.get_available_providers():
        kind = devices[0].kind
        what = {"cuda": "CUDA", "tensorrt": "TensorRT"}.get(kind, kind)
        raise EngineError(f"{devices[0].name} was asked for, but this ONNX Runtime has no {what}; {ADVICE[kind]}")
    return devices


def check_wheels() -> None:
    """Raise EngineError if both wheels are installed: they share a folder, and each overwrites files of the other."""
    installed = [name for name in WHEELS if _version(name) is not None]
    if len(installed) > 1:
        raise EngineError(
            f"{' and '.join(installed)} are both installed and break each other; uninstall both, then install one"
        )


def cuda_answers() -> bool:
    """Whether a driver is loaded and this ONNX Runtime knows CUDA."""
    return CUDA in ort.get_available_providers() and any(
        path.exists() for path in (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia"), Path("/dev/dxg"))
    )


def open_session(model: Path, device: Device, asked: Sequence[Provider] = ()) -> ort.InferenceSession:
    """A session that runs on `device`. asked: its providers, the usual ones without.

    Raises EngineError if the file is missing or broken, or if ONNX Runtime fell back to another provider, which it does
    without an error."""
    if not model.is_file():
        raise EngineError(f"no model at {model}; fetch the models first, or correct 'repository' in the pipeline file")
    if device.on_gpu:
        preload_libraries()
    try:
        session = ort.InferenceSession(str(model), session_options(device), providers=list(asked or providers(device)))
    except Exception as error:  # the runtime raises a class of its own per error code, without a common public base
        raise EngineError(f"model {model} cannot be loaded on {device.name}: {_sentence(error)}") from error
    check_provider(session, device)
    return session


def check_provider(session: ort.InferenceSession, device: Device) -> None:
    """Raise EngineError if a session runs elsewhere than on `device`."""
    got = session.get_providers()[0]
    if got != device.provider:
        raise EngineError(f"{device.name} was asked for, but ONNX Runtime runs on {got}; {ADVICE.get(device.kind, '')}")


def session_options(device: Device) -> ort.SessionOptions:
    """No spinning: several workers share the cores, and a thread that spins takes them from its neighbours."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Planned memory makes the first runs of every new batch size three times as slow, and no later one faster (measured).
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def ports(rows: list[Any]) -> tuple[Port, ...]:
    """Inputs or outputs of a session. Raises EngineError for an element type that numpy lacks."""
    found = []
    for row in rows:
        if row.type not in ONNX_TYPES:
            raise EngineError(f"tensor '{row.name}' of the model has the unsupported type {row.type}")
        found.append(Port(row.name, tuple(row.shape), ONNX_TYPES[row.type].name))
    return tuple(found)


class BoundSession:
    """A session whose inputs stay in device memory, one set per batch shape: a call copies in, runs and copies out without
    allocating on the device. On the CPU it saves nothing (measured) and is not used.

    With the option `graphs` outputs stay too, and each shape has a graph that is captured once and replayed: it holds the
    addresses of everything that it reads and writes. events: on the stream that the session was opened with, where its runs
    are timed.
    """

    def __init__(self, session: ort.InferenceSession, device: Device, events: CudaEvents | None = None) -> None:
        self.session, self.device, self.events = session, device, events
        self.held: dict[tuple[tuple[int, ...], ...], tuple[Any, dict[str, ort.OrtValue], ort.RunOptions]] = {}

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Outputs in the order of the model, in host memory."""
        shapes = tuple(tensor.shape for tensor in inputs.values())
        if shapes not in self.held:
            self.held[shapes] = self._bind(inputs)
        binding, values, options = self.held[shapes]
        for name, value in values.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        if self.events is None:
            self.session.run_with_iobinding(binding, options)
        else:
            self.events.timed(lambda: self.session.run_with_iobinding(binding, options))
        return list(binding.copy_outputs_to_cpu())

    def _bind(self, inputs: Mapping[str, Array]) -> tuple[Any, dict[str, ort.OrtValue], ort.RunOptions]:
        binding, where = self.session.io_binding(), "cuda" if self.device.on_gpu else "cpu"
        values = {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor), where, self.device.index)
            for name, tensor in inputs.items()
        }
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, where, self.device.index)
        if self.device.option != GRAPHS:
            options = ort.RunOptions()
            if self.events is not None:
                options.add_run_config_entry(UNSYNCHRONISED, "1")
            return binding, values, options
        self.session.run_with_iobinding(binding, _graph(NO_GRAPH))
        for output, value in zip(self.session.get_outputs(), binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(output.name, value)
        return binding, values, _graph(len(self.held) + 1)


def _graph(number: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH_ID, str(number))
    return options


def preload_libraries() -> None:
    """Make the CUDA and cuDNN wheels' libraries visible; releases before 1.21 have no such call."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
