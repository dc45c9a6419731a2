"""Tiny models made here. Owns fixtures only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from loki_rl.files.config import ModelSpec
from loki_rl.serving.engines.adapter import Array, PayloadError, Prepared, Produced, SessionIO
from loki_rl.serving.engines.files import model_path, write_whole

Spec = Callable[..., ModelSpec]


class Doubling:
    """Payload: float32 [2]. Output: twice that, and the size of the batch that it was in."""

    def __init__(self, io: SessionIO, options: Mapping[str, object]) -> None:
        self.input, self.outputs, self.options = io.inputs[0].name, [port.name for port in io.outputs], options

    @staticmethod
    def check(payload: Array) -> None:
        if payload.shape != (2,):
            raise PayloadError(f"two numbers are needed, not {list(payload.shape)}")

    def sample(self) -> Array:
        return np.zeros(2, np.float32)

    def prepare(self, payload: Array) -> Prepared:
        self.check(payload)
        return Prepared({self.input: payload})

    def finish(self, outputs: Mapping[str, Array], kept: Any) -> Produced:
        assert kept is None
        return Produced(output=np.concatenate([outputs[name].reshape(-1) for name in self.outputs]))


@pytest.fixture
def doubling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    """Makes a model in tmp_path that doubles its input and tells its batch size; returns what to run."""
    module = ModuleType("doubling")
    module.__dict__["Doubling"] = Doubling
    monkeypatch.setitem(sys.modules, "doubling", module)

    def make(name: str = "twice", **options: object) -> ModelSpec:
        write_whole(model_path(tmp_path, name), twice().SerializeToString())
        return ModelSpec(name, "doubling:Doubling", options)

    return make


def twice() -> onnx.ModelProto:
    """x [N, 2] -> y [N, 2] = 2 x, size [N, 1] = N."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Shape", ["x"], ["n"], end=1),
        helper.make_node("Cast", ["n"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "count"], ["size"]),
    ]
    graph = helper.make_graph(
        nodes,
        "twice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("size", TensorProto.FLOAT, ["N", 1]),
        ],
        [helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
