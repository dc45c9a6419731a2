from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loki_rl.config import PipelineFile
from loki_rl.serving.adapters.adapter import Array
from loki_rl.serving.hardware import device_name
from loki_rl.serving.onnx_engine import OnnxEngine
from loki_rl.serving.quality import encoded, true_crops
from loki_rl.serving.scenes import render
from loki_rl.serving.sessions import CUDA, choose_device, cuda_answers

pytestmark = pytest.mark.skipif(not cuda_answers(), reason="no NVIDIA driver, or an ONNX Runtime without CUDA")

SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def engines(reading: PipelineFile) -> tuple[OnnxEngine, OnnxEngine]:
    sizes = dict.fromkeys(reading.models, SIZES)
    return (
        OnnxEngine(reading.models, reading.repository, "cpu", sizes=sizes),
        OnnxEngine(reading.models, reading.repository, "auto", sizes=sizes, padded=True),
    )


def raw(engine: OnnxEngine, task: str, variant: str, payloads: list[Array]) -> list[Array]:
    engine.load(task, variant)
    resident = engine.residents[task, variant]
    items = [resident.adapter.prepare(payload).inputs for payload in payloads]
    return [output for rows in engine.raw(task, variant, items) for output in rows.values()]


def test_sessions_run_on_the_gpu(engines: tuple[OnnxEngine, OnnxEngine]) -> None:
    gpu = engines[1]
    assert gpu.device == choose_device("cuda:0")
    gpu.load("detection", "d320")
    assert gpu.residents["detection", "d320"].session.get_providers()[0] == CUDA
    assert device_name(gpu.device)


@pytest.mark.parametrize(("task", "variant"), [("detection", "d320"), ("recognition", "rt128"), ("recognition", "rs240")])
def test_the_gpu_computes_what_the_cpu_does(
    engines: tuple[OnnxEngine, OnnxEngine], fonts: tuple[Path, ...], task: str, variant: str
) -> None:
    scenes = [render(number, 3, fonts) for number in range(3)]
    payloads = [encoded(scene) for scene in scenes] if task == "detection" else true_crops(scenes)[:3]
    for cpu, gpu in zip(*(raw(engine, task, variant, payloads) for engine in engines), strict=True):
        assert np.allclose(cpu, gpu, atol=1e-2)
