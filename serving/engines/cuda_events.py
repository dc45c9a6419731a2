"""How long a GPU works, by events on the stream that a session runs on: without what its thread takes to notice the end."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any

from loki_rl.serving.engines.core_time import ThreadTime, thread_time_of_now
from loki_rl.serving.engines.engine import EngineError

log = logging.getLogger(__name__)

# As ONNX Runtime's CUDA builds name it; the one that it has loaded is the one that is found.
LIBRARIES = ("libcudart.so.12", "libcudart.so.13", "libcudart.so.11.0", "libcudart.so")


class CudaError(EngineError):
    """A call of the CUDA runtime failed."""


class CudaEvents:
    """A stream of one GPU and what runs on it. stream: its address. delayed_s: in all calls of `timed`, what the thread took
    longer than the GPU without waiting for a core [s]."""

    def __init__(self, library: Any, index: int) -> None:
        """Raises CudaError."""
        self.delayed_s = 0.0
        self._library = library
        self._call("cudaSetDevice", ctypes.c_int(index))
        self._stream, self._begin, self._end = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        # Not one of those that do not wait for the default stream: inputs are copied on that.
        self._call("cudaStreamCreate", ctypes.byref(self._stream))
        for event in (self._begin, self._end):
            self._call("cudaEventCreate", ctypes.byref(event))

    @property
    def stream(self) -> int:
        return self._stream.value or 0

    def timed(self, run: Callable[[], None]) -> None:
        """Run what only hands work to the stream, and wait until that is done. Raises CudaError."""
        start = thread_time_of_now()
        self._call("cudaEventRecord", self._begin, self._stream)
        run()
        self._call("cudaEventRecord", self._end, self._stream)
        self._call("cudaEventSynchronize", self._end)
        elapsed_ms = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(elapsed_ms), self._begin, self._end)
        self.delayed_s += max(0.0, thread_time_of_now().since(start).own - elapsed_ms.value / 1000)

    def now(self) -> ThreadTime:
        """Of the calling thread; that it noticed late what the GPU had done counts as waited."""
        told = thread_time_of_now()
        return ThreadTime(told.wall, told.waited + self.delayed_s)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise CudaError(f"{name} failed with code {code}")


def cuda_events(index: int) -> CudaEvents | None:
    """Of a GPU; None where there is no CUDA runtime library or it does not work, which is logged: then time is that of the
    wall, between two synchronisations."""
    library = _library()
    if library is None:
        log.warning("no CUDA runtime library was found; GPU times are those of the thread that waits for them")
        return None
    try:
        return CudaEvents(library, index)
    except (CudaError, AttributeError) as error:
        log.warning("GPU times are those of the thread that waits for them: %s", error)
        return None


def _library() -> ctypes.CDLL | None:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
