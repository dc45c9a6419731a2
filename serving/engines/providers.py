"""Execution providers of ONNX Runtime: which are asked for a device, and with which options."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

import onnxruntime as ort
from msgspec import Struct

from loki_rl.serving.engines.device import CPU, CUDA, FP16, GRAPHS, TENSORRT, Device
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.files import CACHE

Options = dict[str, str]
Provider = str | tuple[str, Options]


class Shapes(Struct, frozen=True):
    """The sizes that an engine is built for. inputs: name -> shape of one item. sizes: of batches, ascending."""

    inputs: Mapping[str, tuple[int, ...]]
    sizes: Sequence[int]

    def of(self, size: int) -> str:
        """The inputs at one batch size, as TensorRT writes them: x:4x3x48x160,y:4x2."""
        return ",".join(f"{name}:{'x'.join(map(str, (size, *shape)))}" for name, shape in self.inputs.items())


def providers(
    device: Device,
    memory_mb: float = float("inf"),
    shapes: Shapes | None = None,
    cache: Path | None = None,
    stream: int = 0,
) -> list[Provider]:
    """What a session on `device` is opened with, in order of preference.

    memory_mb: most that a session's arena may take of a GPU. shapes, cache: of the engine that TensorRT builds, and the
    folder that keeps it; it needs both. stream: address of the one to run on, 0 for one of its own.
    """
    if device.kind == "cpu":
        return [CPU]
    cuda = (CUDA, _cuda(device, memory_mb, stream))
    if device.kind == "cuda":
        return [cuda]
    assert shapes is not None
    assert cache is not None
    # What TensorRT cannot build runs on CUDA.
    return [(TENSORRT, _tensorrt(device, shapes, cache)), cuda]


def _cuda(device: Device, memory_mb: float, stream: int) -> Options:
    options = {
        "device_id": str(device.index),
        # Several workers may share a GPU: an arena that doubles would take what the next one needs.
        "arena_extend_strategy": "kSameAsRequested",
        # The default search takes seconds per new shape, at every load.
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
    }
    if isfinite(memory_mb):
        options["gpu_mem_limit"] = str(round(1e6 * memory_mb))
    if stream:
        options["user_compute_stream"] = str(stream)
    if device.option == GRAPHS:
        options["enable_cuda_graph"] = "1"
    return options


def _tensorrt(device: Device, shapes: Shapes, cache: Path) -> Options:
    """Without fixed shapes an engine would be built anew for every batch size that comes, while requests wait."""
    return {
        "device_id": str(device.index),
        "trt_fp16_enable": "True" if device.option == FP16 else "False",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": shapes.of(shapes.sizes[0]),
        "trt_profile_opt_shapes": shapes.of(shapes.sizes[len(shapes.sizes) // 2]),
        "trt_profile_max_shapes": shapes.of(shapes.sizes[-1]),
    }


@contextmanager
def engine_cache(repository: Path, model: str, shapes: Shapes) -> Iterator[Path]:
    """The folder for one model at one range of shapes, locked: a build takes minutes, and whoever waits finds it done.

    TensorRT names its files after the graph alone, so variants of one model need folders of their own; and what one release
    of ONNX Runtime built another may not read. Raises EngineError if it cannot be made.
    """
    folder = repository / CACHE / "tensorrt" / ort.__version__ / model / _ranges(shapes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise EngineError(f"what TensorRT builds cannot be kept in {folder}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _ranges(shapes: Shapes) -> str:
    """As 3x48x160-1to32."""
    items = "_".join("x".join(map(str, shape)) for shape in shapes.inputs.values())
    return f"{items}-{shapes.sizes[0]}to{shapes.sizes[-1]}"
