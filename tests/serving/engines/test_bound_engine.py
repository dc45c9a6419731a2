"""The engine as it works on a GPU, with sessions on the CPU behind the same code: every way of running asks for its own
providers, binds its buffers when a model is loaded, and computes what the plain engine does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from msgspec import Struct

from loki_rl.files.config import ModelSpec
from loki_rl.serving.engines import onnx_engine
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.cuda_events import CudaEvents
from loki_rl.serving.engines.device import CPU, CUDA, TENSORRT, Device
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.engines.providers import Provider
from loki_rl.serving.engines.sessions import BoundSession, open_session

KEY = ("double", "only")
SIZES = (1, 2, 4)
WORDS = ("cuda:0", "cuda+graphs:0", "tensorrt:0", "tensorrt+fp16:0")
Spec = Callable[..., ModelSpec]


class Stage(Struct):
    """An engine and what it asked ONNX Runtime for, session by session."""

    engine: OnnxEngine
    asked: list[list[Provider]]

    @property
    def bound(self) -> BoundSession:
        found = self.engine.residents[KEY].bound
        assert found is not None
        return found


@pytest.fixture(params=WORDS)
def stage(request: pytest.FixtureRequest, doubling: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    asked: list[list[Provider]] = []

    def on_the_cpu(model: Path, device: Device, wanted: list[Provider] | None = None) -> ort.InferenceSession:
        if device.on_gpu:
            asked.append(list(wanted or ()))
        return open_session(model, Device("cpu"))

    def in_memory(session: ort.InferenceSession, device: Device, events: CudaEvents | None = None) -> BoundSession:
        return BoundSession(session, Device("cpu", 0, device.option), events)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnx_engine, "open_session", on_the_cpu)
    monkeypatch.setattr(onnx_engine, "BoundSession", in_memory)
    made = OnnxEngine({KEY: doubling()}, tmp_path, request.param, sizes={KEY: SIZES}, padded=True, memory_mb=500.0)
    made.load(*KEY)
    return Stage(made, asked)


def served(engine: OnnxEngine, values: list[float]) -> list[list[float]]:
    payloads: list[Array] = [np.full(2, value, np.float32) for value in values]
    results = engine.run(*KEY, payloads)
    assert all(result.output is not None for result in results)
    return [result.output.tolist() for result in results if result.output is not None]


def test_every_way_of_running_asks_for_its_own_providers_first(stage: Stage) -> None:
    (wanted,) = stage.asked
    named = [one[0] for one in wanted if isinstance(one, tuple)]
    device = stage.engine.device
    assert named == ([TENSORRT, CUDA] if device.kind == "tensorrt" else [CUDA])
    cuda = next(one[1] for one in wanted if isinstance(one, tuple) and one[0] == CUDA)
    assert cuda["gpu_mem_limit"] == "500000000"
    assert ("enable_cuda_graph" in cuda) == (device.option == "graphs")
    shapes = [one[1]["trt_profile_max_shapes"] for one in wanted if isinstance(one, tuple) and one[0] == TENSORRT]
    assert shapes == (["x:4x2"] if device.kind == "tensorrt" else [])


def test_all_sizes_are_bound_by_the_load_and_none_while_requests_wait(stage: Stage) -> None:
    held = dict(stage.bound.held)
    assert sorted(shape[0][0] for shape in held) == list(SIZES)
    for count in (1, 2, 3, 4, 3, 1):
        served(stage.engine, [float(value) for value in range(count)])
    assert stage.bound.held == held


def test_padded_batches_give_what_the_plain_engine_gives(stage: Stage, doubling: Spec, tmp_path: Path) -> None:
    plain = OnnxEngine({KEY: doubling()}, tmp_path, "cpu", sizes={KEY: SIZES}, padded=True)
    plain.load(*KEY)
    # Twice, with other values: what was bound or captured by the first must not stay in the second.
    for values in ([1.0, 2.0, 3.0], [7.0, 8.0, 9.0], [5.0], [4.0, 6.0]):
        assert served(stage.engine, values) == served(plain, values)


def test_what_was_given_out_is_not_written_over(stage: Stage) -> None:
    first = stage.engine.run(*KEY, [np.full(2, 1.0, np.float32)])[0].output
    assert first is not None
    kept = first.tolist()
    served(stage.engine, [9.0])
    assert first.tolist() == kept


def test_a_batch_beyond_the_profiled_sizes_is_bound_then(stage: Stage) -> None:
    assert served(stage.engine, [1.0] * 5) == [[2.0, 2.0, 5.0]] * 5
    assert len(stage.bound.held) == len(SIZES) + 1


def test_an_unloaded_model_takes_its_buffers_along(stage: Stage) -> None:
    stage.engine.unload(*KEY)
    assert not stage.engine.residents
    stage.engine.load(*KEY)
    assert served(stage.engine, [3.0]) == [[6.0, 6.0, 1.0]]
