"""A model of Triton's python backend: Triton loads this file in a process for each instance, forms batches, and calls
`execute`. Which model it is, the parameters of its configuration say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import triton_python_backend_utils as triton

from benchmarks.peers.servers.spec import Spec, StageSpec
from benchmarks.peers.servers.stages import Array, Detection, Null, Recognition


class TritonPythonModel:
    """`part` of the parameters: a, b (null models), detection, recognition, or reading, which calls those two."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        first, second = msgspec.json.decode(Path(parameters["spec"]["string_value"]).read_bytes(), type=Spec).stages
        parts: dict[str, Any] = {
            "a": lambda: NullPart(first),
            "b": lambda: NullPart(second),
            "detection": lambda: DetectionPart(first),
            "recognition": lambda: RecognitionPart(second),
            "reading": lambda: ReadingPart(second.batch),
        }
        self._part = parts[parameters["part"]["string_value"]]()

    def execute(self, requests: list[Any]) -> Any:
        """Answers, or for a model that waits for others a coroutine, which Triton awaits."""
        inputs = [triton.get_input_tensor_by_name(request, "in").as_numpy() for request in requests]
        if isinstance(self._part, ReadingPart):
            return self._awaited(self._part, inputs)
        return responses(self._part.answers(inputs))

    @staticmethod
    async def _awaited(part: ReadingPart, inputs: list[Array]) -> list[Any]:
        return responses([await part.read(rows[0]) for rows in inputs])


class NullPart:
    def __init__(self, stage: StageSpec) -> None:
        self._model = Null(stage)

    def answers(self, inputs: list[Array]) -> list[Array]:
        return self._model.run(inputs)


class DetectionPart:
    """A picture in, crops out."""

    def __init__(self, stage: StageSpec) -> None:
        self._model = Detection(stage)

    def answers(self, inputs: list[Array]) -> list[Array]:
        return [elements(crop.tobytes() for crop in crops) for crops in self._model.crops(inputs)]


class RecognitionPart:
    """Rows of one crop in, rows of one text out."""

    def __init__(self, stage: StageSpec) -> None:
        self._model = Recognition(stage)

    def answers(self, inputs: list[Array]) -> list[Array]:
        crops = [np.frombuffer(crop, np.uint8) for rows in inputs for crop in rows[:, 0]]
        texts = elements(self._model.texts(crops)).reshape(-1, 1)
        return np.split(texts, np.cumsum([len(rows) for rows in inputs])[:-1])


class ReadingPart:
    """The way of a picture through both models, whose number of crops an ensemble could not have. batch: rows that
    recognition takes at once."""

    def __init__(self, batch: int) -> None:
        self._batch = batch

    async def read(self, picture: Array) -> Array:
        crops = await call("detection", picture)
        parts = [crops[start : start + self._batch].reshape(-1, 1) for start in range(0, len(crops), self._batch)]
        texts = await asyncio.gather(*(call("recognition", part) for part in parts))
        return np.concatenate([text[:, 0] for text in texts] or [elements([])])[np.newaxis]


def responses(answers: list[Array]) -> list[Any]:
    return [triton.InferenceResponse([triton.Tensor("out", answer)]) for answer in answers]


async def call(model: str, tensor: Array) -> Array:
    """Another model's answer. Raises TritonModelException."""
    request = triton.InferenceRequest(model_name=model, requested_output_names=["out"], inputs=[triton.Tensor("in", tensor)])
    answer = await request.async_exec()
    if answer.has_error():
        raise triton.TritonModelException(answer.error().message())
    found: Array = triton.get_output_tensor_by_name(answer, "out").as_numpy()
    return found


def elements(found: Any) -> Array:
    """One axis of bytes."""
    return np.array(list(found), np.object_)
