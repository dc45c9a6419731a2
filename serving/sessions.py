"""ONNX Runtime sessions that run where they were asked to. Owns the choice of the execution provider, the options of a
session and the memory bound to it; knows no adapter and no pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from msgspec import Struct

from loki_rl.serving.adapters.adapter import Array, Port
from loki_rl.serving.engine import EngineError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
WHEELS = ("onnxruntime", "onnxruntime-gpu")
ADVICE = "install onnxruntime-gpu with its cuda and cudnn extras and a matching driver, or use --device cpu"
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class Device(Struct, frozen=True):
    """Where sessions run. index: of the GPU, 0 on a CPU."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    @property
    def provider(self) -> str:
        return CUDA if self.kind == "cuda" else CPU

    @property
    def name(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"


def choose_device(wanted: str) -> Device:
    """The device for auto, cpu, cuda or cuda:N. auto: CUDA if this ONNX Runtime was built for it and a driver is loaded,
    else the CPU. Raises EngineError for another word, for CUDA without such a build, or if both wheels are installed."""
    chosen = choose_devices(wanted)
    if len(chosen) > 1:
        raise EngineError(f"one device is needed here, not '{wanted}'; use cuda:N")
    return chosen[0]


def choose_devices(wanted: str) -> tuple[Device, ...]:
    """As choose_device, and several GPUs for cuda:0,1: workers are dealt out to them in turn."""
    check_wheels()
    devices = _named(wanted)
    if devices[0].provider not in ort.get_available_providers():
        raise EngineError(f"{devices[0].name} was asked for, but this ONNX Runtime has no CUDA; {ADVICE}")
    return devices


def _named(wanted: str) -> tuple[Device, ...]:
    if wanted == "auto":
        return (Device("cuda" if cuda_answers() else "cpu"),)
    kind, colon, numbers = wanted.partition(":")
    if kind == "cpu" and not colon:
        return (Device("cpu"),)
    indices = numbers.split(",") if colon else ["0"]
    if kind != "cuda" or not all(index.isdecimal() for index in indices):
        raise EngineError(f"device '{wanted}' is unknown; use auto, cpu, cuda, cuda:N or cuda:0,1")
    if len(set(indices)) < len(indices):
        raise EngineError(f"device '{wanted}' names a GPU twice; --workers-per-gpu puts several workers on each")
    return tuple(Device("cuda", int(index)) for index in indices)


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


def open_session(model: Path, device: Device) -> ort.InferenceSession:
    """A session with one thread that runs on `device`. Raises EngineError if the file is missing or broken, or if ONNX
    Runtime fell back to another provider, which it does without an error."""
    if not model.is_file():
        raise EngineError(f"no model at {model}; fetch the models first, or correct 'repository' in the pipeline file")
    if device.kind == "cuda":
        _preload()
    try:
        session = ort.InferenceSession(str(model), session_options(), providers=[_provider(device)])
    except Exception as error:  # the runtime raises a class of its own per error code, without a common public base
        raise EngineError(f"model {model} cannot be loaded on {device.name}: {_sentence(error)}") from error
    check_provider(session, device)
    return session


def check_provider(session: ort.InferenceSession, device: Device) -> None:
    """Raise EngineError if a session runs elsewhere than on `device`."""
    got = session.get_providers()[0]
    if got != device.provider:
        raise EngineError(f"{device.name} was asked for, but ONNX Runtime runs on {got}; {ADVICE}")


def session_options() -> ort.SessionOptions:
    """One thread, no spinning: several workers share the cores, and a thread that spins takes them from its neighbours."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
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
        if row.type not in DTYPES:
            raise EngineError(f"tensor '{row.name}' of the model has the unsupported type {row.type}")
        found.append(Port(row.name, tuple(row.shape), np.dtype(DTYPES[row.type]).name))
    return tuple(found)


class BoundSession:
    """A session whose inputs stay in device memory, one set per batch shape: a call copies in, runs and copies out without
    allocating on the device. On the CPU it saves nothing (measured) and is not used."""

    def __init__(self, session: ort.InferenceSession, device: Device) -> None:
        self.session, self.device = session, device
        self.held: dict[tuple[tuple[int, ...], ...], tuple[Any, dict[str, ort.OrtValue]]] = {}

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Outputs in the order of the model, in host memory."""
        shapes = tuple(tensor.shape for tensor in inputs.values())
        if shapes not in self.held:
            self.held[shapes] = self._bind(inputs)
        binding, values = self.held[shapes]
        for name, value in values.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        self.session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def _bind(self, inputs: Mapping[str, Array]) -> tuple[Any, dict[str, ort.OrtValue]]:
        binding = self.session.io_binding()
        values = {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor), self.device.kind, self.device.index)
            for name, tensor in inputs.items()
        }
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, self.device.kind, self.device.index)
        return binding, values


def _provider(device: Device) -> str | tuple[str, dict[str, str]]:
    if device.kind == "cpu":
        return CPU
    return CUDA, {
        "device_id": str(device.index),
        # Several workers may share a GPU: an arena that doubles would take what the next one needs.
        "arena_extend_strategy": "kSameAsRequested",
        # The default search takes seconds per new shape, at every load.
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
    }


def _preload() -> None:
    # Makes the CUDA and cuDNN wheels' libraries visible; releases before 1.21 have no such call.
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
