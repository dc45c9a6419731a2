"""Real models on a real GPU, by every provider: they run there, compute what the CPU does, and are swapped while requests
come. Skipped, with the reason, where there is none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.reading.quality import encoded, true_crops
from loki_rl.reading.scenes import render
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.hardware import device_name, memory_mb
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.engines.sessions import choose_device, cuda_answers
from loki_rl.serving.load.replay import replay
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.profiling.workload import entry_payloads

SIZES = (1, 2, 4)


@pytest.fixture(scope="module", params=["cuda", "cuda+graphs", "tensorrt"])
def device(request: pytest.FixtureRequest) -> str:
    word = str(request.param)
    if not cuda_answers():
        pytest.skip("no NVIDIA driver, or an ONNX Runtime without CUDA")
    if word == "tensorrt" and find_spec("tensorrt") is None:
        pytest.skip("the libraries of TensorRT are not installed")
    return word


@pytest.fixture(scope="module")
def engines(device: str, reading: PipelineFile) -> tuple[OnnxEngine, OnnxEngine]:
    sizes = dict.fromkeys(reading.models, SIZES)
    return (
        OnnxEngine(reading.models, reading.repository, "cpu", sizes=sizes),
        OnnxEngine(reading.models, reading.repository, device, sizes=sizes, padded=True, memory_mb=4000.0),
    )


def raw(engine: OnnxEngine, task: str, variant: str, payloads: list[Array]) -> list[Array]:
    engine.load(task, variant)
    resident = engine.residents[task, variant]
    items = [resident.adapter.prepare(payload).inputs for payload in payloads]
    found = engine.infer(resident, items, engine.padded_size(task, variant, len(items)))
    return [output for rows in found for output in rows.values()]


def test_sessions_run_where_they_were_asked_to(device: str, engines: tuple[OnnxEngine, OnnxEngine]) -> None:
    engine = engines[1]
    assert engine.device == choose_device(device)
    engine.load("detection", "d320")
    assert engine.residents["detection", "d320"].session.get_providers()[0] == engine.device.provider
    assert device_name(engine.device)
    assert memory_mb(engine.device) > 1000


@pytest.mark.parametrize(("task", "variant"), [("detection", "d320"), ("recognition", "rt128"), ("recognition", "rs240")])
def test_they_compute_what_the_cpu_does_at_every_size(
    engines: tuple[OnnxEngine, OnnxEngine], fonts: tuple[Path, ...], task: str, variant: str
) -> None:
    scenes = [render(number, 3, fonts) for number in range(3)]
    payloads = [encoded(scene) for scene in scenes] if task == "detection" else true_crops(scenes)[:3]
    # Twice: what was captured or kept from the first time must not stay in the second.
    for count in (1, 2, 3, 2, 1):
        for cpu, gpu in zip(*(raw(engine, task, variant, payloads[-count:]) for engine in engines), strict=True):
            assert np.allclose(cpu, gpu, atol=1e-2)


def test_a_variant_that_is_unloaded_leaves_and_comes_back(engines: tuple[OnnxEngine, OnnxEngine]) -> None:
    engine = engines[1]
    engine.load("recognition", "rt96")
    engine.unload("recognition", "rt96")
    with pytest.raises(EngineError, match="is not loaded"):
        engine.run("recognition", "rt96", [])
    assert engine.load("recognition", "rt96") > 0


def test_gpu_time_is_told_by_events_and_the_same_comes_out(engines: tuple[OnnxEngine, OnnxEngine], device: str) -> None:
    if device != "cuda":
        pytest.skip("what is captured or built into an engine is timed by its thread")
    reading = engines[0]
    timed = OnnxEngine(reading.models, reading.repository, device, sizes=reading.sizes, padded=True, timed=True)
    assert timed.events is not None, "the CUDA runtime of this ONNX Runtime is not found"
    timed.load("recognition", "rt96")
    before = timed.events.now()
    payload = timed.sample("recognition", "rt96")
    cpu, gpu = (raw(engine, "recognition", "rt96", [payload]) for engine in (reading, timed))
    assert np.allclose(cpu, gpu, atol=1e-2)
    took = timed.events.now().since(before)
    assert 0.0 < took.own <= took.wall


# Three in turn: a server keeps two models, so between two it would not have to load.
ALTERNATING = """
from loki_rl.core.plan import Placement, Plan
MODELS = [("d320", "rt96"), ("d480", "rt128"), ("d640", "rt160")]
class Alternating:
    asked = 0
    def decide(self, snapshot):
        detector, recogniser = MODELS[self.asked % 3]
        self.asked += 1
        placed = (Placement("detection", detector, 1, 1), Placement("recognition", recogniser, 4, 1))
        flows = {"detection": {detector: 1.0}, "recognition": {recogniser: 1.0}}
        return Plan("accuracy", placed, 2, 0.5, 1.0, 4.0, 8.0, {"detection": 0.5, "recognition": 1.0}, flows)
def make(*_):
    return Alternating()
"""


def test_models_are_swapped_while_requests_come_and_none_is_lost(
    device: str, reading: PipelineFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alternating.py").write_text(ALTERNATING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    file = load_pipeline(reading.path)
    pipeline = replace(file.pipeline, slo_s=20.0, padded=True)
    times = np.arange(0.0, 6.0, 0.5)
    with LocalPlane(
        ClusterOptions(pipeline, 2, interval_s=2.0),
        engine="onnx",
        pipeline_file=str(file.path),
        device=device,
        policy_factory="alternating:make",
        start_s=600.0,  # TensorRT builds for minutes, the first time
    ) as plane:
        seen = replay(plane.front, pipeline.name, times, entry_payloads(file, 6, 1, "cpu"), pipeline.slo_s).figures
        plane.check()
    assert (seen.arrivals, seen.ok) == (len(times), len(times))
    assert seen.switches
