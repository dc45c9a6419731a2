"""An adapter that some payloads make hang, or end its process: stands in for a model or codec that does."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from loki_rl.serving.engines.adapter import Prepared, Produced

# Value of the first byte of a payload.
INNOCENT, HANG, ABORT = 0, 1, 2


class Poisoned:
    """A picture of pixels in, their mean out."""

    def __init__(self, io: Any, options: dict[str, Any]) -> None:  # noqa: ARG002  (the same for every adapter)
        self._input, self._output = io.inputs[0].name, io.outputs[0].name

    @staticmethod
    def check(payload: np.ndarray[Any, Any]) -> None:
        """Whatever it is, it comes in: nothing shows that it is poisoned."""

    def sample(self) -> np.ndarray[Any, Any]:
        return payload(INNOCENT)

    def prepare(self, payload: np.ndarray[Any, Any]) -> Prepared:
        if payload.flat[0] == HANG:
            threading.Event().wait()
        if payload.flat[0] == ABORT:
            os.abort()
        return Prepared({self._input: payload.astype(np.float32).reshape(-1)})

    def finish(self, outputs: dict[str, np.ndarray[Any, Any]], kept: object) -> Produced:  # noqa: ARG002
        return Produced(output=np.frombuffer(b"%.3f" % float(outputs[self._output].reshape(-1)[0]), np.uint8))


def payload(kind: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((8, 8, 3), kind, np.uint8)
