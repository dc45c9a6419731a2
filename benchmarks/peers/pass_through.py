"""The adapter of the null models in our own plane: tensors go in and out as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from loki_rl.serving.engines.adapter import Array, PayloadError, Prepared, Produced, SessionIO
from loki_rl.serving.transport.protocol import Tensor

WIDTH = 16


class PassThrough:
    """Payload: float32 [16]. Model: x [N, 16] -> y [N, 16]."""

    takes = Tensor("x", "FP32", (WIDTH,))
    gives = Tensor("y", "BYTES", (-1,))

    def __init__(self, io: SessionIO, _: Mapping[str, object]) -> None:
        self._input, self._output = io.inputs[0].name, io.outputs[0].name

    @staticmethod
    def check(payload: Array) -> None:
        if payload.dtype != np.float32 or payload.shape != (WIDTH,):
            raise PayloadError(f"a tensor must be float32 [{WIDTH}], not {payload.dtype} {list(payload.shape)}")

    def sample(self) -> Array:
        return np.zeros(WIDTH, np.float32)

    def prepare(self, payload: Array) -> Prepared:
        return Prepared({self._input: payload})


class First(PassThrough):
    """Of the first task: one child each."""

    def finish(self, outputs: Mapping[str, Array], _: Any) -> Produced:
        return Produced(children=([outputs[self._output]],))


class Last(PassThrough):
    def finish(self, outputs: Mapping[str, Array], _: Any) -> Produced:
        return Produced(output=outputs[self._output])
