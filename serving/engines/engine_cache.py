"""The folder that keeps what TensorRT built of a model."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort

from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.files import CACHE
from loki_rl.serving.engines.providers import Shapes


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
