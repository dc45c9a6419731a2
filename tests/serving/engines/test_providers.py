"""What sessions are opened with: the options as ONNX Runtime reads them, and what is said where a provider is not there."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from loki_rl.files.config import ModelSpec, PipelineFile
from loki_rl.serving.engines.device import CPU, CUDA, TENSORRT, Device
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.files import model_path
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.engines.providers import Provider, Shapes, engine_cache, providers
from loki_rl.serving.engines.sessions import BoundSession, choose_device, open_session

Spec = Callable[..., ModelSpec]
SHAPES = Shapes({"x": (3, 48, 160), "mask": ()}, (1, 2, 4, 8))

without = pytest.mark.skipif(TENSORRT in ort.get_available_providers(), reason="this ONNX Runtime knows TensorRT")


def options(provider: Provider) -> dict[str, str]:
    assert isinstance(provider, tuple)
    return provider[1]


def test_a_cpu_needs_no_options() -> None:
    assert providers(Device("cpu"), 100.0) == [CPU]


def test_cuda_takes_no_more_memory_than_it_may() -> None:
    ((name, plain),) = (one for one in providers(Device("cuda", 2)) if isinstance(one, tuple))
    assert (name, plain["device_id"]) == (CUDA, "2")
    assert plain["arena_extend_strategy"] == "kSameAsRequested"
    assert not {"gpu_mem_limit", "enable_cuda_graph"} & plain.keys()
    limited = options(providers(Device("cuda", 2, "graphs"), 1500.0)[0])
    assert (limited["gpu_mem_limit"], limited["enable_cuda_graph"]) == ("1500000000", "1")


def test_tensorrt_is_built_for_the_profiled_sizes_and_falls_back_on_cuda(tmp_path: Path) -> None:
    first, second = providers(Device("tensorrt", 1), 800.0, SHAPES, tmp_path)
    assert isinstance(first, tuple)
    assert first[0] == TENSORRT
    assert first[1] == {
        "device_id": "1",
        "trt_fp16_enable": "False",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(tmp_path),
        "trt_profile_min_shapes": "x:1x3x48x160,mask:1",
        "trt_profile_opt_shapes": "x:4x3x48x160,mask:4",
        "trt_profile_max_shapes": "x:8x3x48x160,mask:8",
    }
    assert second == ("CUDAExecutionProvider", options(providers(Device("cuda", 1), 800.0)[0]))
    half = options(providers(Device("tensorrt", 0, "fp16"), shapes=SHAPES, cache=tmp_path)[0])
    assert half["trt_fp16_enable"] == "True"


def test_variants_of_one_model_keep_engines_apart_and_one_builds_at_a_time(tmp_path: Path) -> None:
    wide = Shapes({"x": (3, 48, 240)}, (1, 8))
    with engine_cache(tmp_path, "rec", SHAPES) as narrow, engine_cache(tmp_path, "rec", wide) as other:
        assert narrow.is_dir()
        assert narrow != other
        assert narrow.is_relative_to(tmp_path / ".cache" / "tensorrt" / ort.__version__ / "rec")
        with (narrow / "lock").open() as second, pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with engine_cache(tmp_path, "rec", SHAPES):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EngineError, match="what TensorRT builds cannot be kept in"),
        engine_cache(tmp_path / "file", "", wide),
    ):
        pass


@without
@pytest.mark.parametrize("wanted", ["tensorrt", "tensorrt+fp16:1"])
def test_a_build_without_tensorrt_says_so(wanted: str) -> None:
    with pytest.raises(EngineError, match=r"^tensorrt\S*:\d was asked for, but this ONNX Runtime has no TensorRT; install "):
        choose_device(wanted)


@without
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_silent_fallback_from_tensorrt_is_found(doubling: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build says that it knows TensorRT, as the wheel for GPUs does on a host without its libraries."""
    known = ort.get_available_providers()
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, *known])
    key = ("double", "only")
    engine = OnnxEngine({key: doubling()}, tmp_path, "tensorrt:0", sizes={key: (1, 2, 4)}, padded=True)
    with pytest.raises(
        EngineError, match="tensorrt:0 was asked for, but ONNX Runtime runs on CPUExecutionProvider; install"
    ):
        engine.load(*key)
    (made,) = tmp_path.glob(".cache/tensorrt/*/twice/*")
    assert made.name == "2-1to4"


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_shapes_of_real_models_are_those_that_their_adapters_make(
    reading: PipelineFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Provider] = []
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CPU])
    monkeypatch.setattr("loki_rl.serving.engines.onnx_engine.engine_cache", lambda *_: engine_cache(tmp_path, "m", SHAPES))
    real = open_session

    def opened(model: Path, _: Device, wanted: list[Provider] | None = None) -> ort.InferenceSession:
        asked.extend(wanted or ())
        return real(model, Device("cpu"))

    monkeypatch.setattr("loki_rl.serving.engines.onnx_engine.open_session", opened)
    sizes = dict.fromkeys(reading.models, (1, 2, 8))
    engine = OnnxEngine(reading.models, reading.repository, "tensorrt", sizes=sizes)
    for key in (("detection", "d480"), ("recognition", "rt128")):
        engine._open(*key)
    shown = [options(one)["trt_profile_max_shapes"] for one in asked if isinstance(one, tuple) and one[0] == TENSORRT]
    assert shown == ["x:8x3x320x480", "x:8x3x48x128"]


def test_buffers_for_graphs_keep_inputs_and_outputs_in_place(doubling: Spec, tmp_path: Path) -> None:
    """On a CPU nothing is captured, but the addresses that a graph would hold must not move."""
    session = open_session(model_path(tmp_path, doubling().model), Device("cpu"))
    bound = BoundSession(session, Device("cpu", 0, "graphs"))
    first = bound.run({"x": np.full((3, 2), 1.0, np.float32)})
    (held,) = bound.held.values()
    addresses = [value.data_ptr() for value in held[0].get_outputs()]
    doubled, size = bound.run({"x": np.full((3, 2), 2.0, np.float32)})
    assert first[0].tolist() == [[2.0, 2.0]] * 3, "what was given out is a copy"
    assert doubled.tolist() == [[4.0, 4.0]] * 3
    assert size.tolist() == [[3.0]] * 3
    assert [value.data_ptr() for value in held[0].get_outputs()] == addresses
    bound.run({"x": np.zeros((1, 2), np.float32)})
    assert [one[2].get_run_config_entry("gpu_graph_id") for one in bound.held.values()] == ["1", "2"]
