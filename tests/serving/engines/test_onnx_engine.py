from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

from loki_rl.files.config import ModelSpec, PipelineFile
from loki_rl.reading.pictures import Crop, pack
from loki_rl.reading.quality import encoded, same_text, true_crops
from loki_rl.reading.recognition import Reading
from loki_rl.reading.scenes import render
from loki_rl.serving.engines import sessions
from loki_rl.serving.engines.adapter import Produced
from loki_rl.serving.engines.device import Device, dealt
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.files import model_path, write_whole
from loki_rl.serving.engines.hardware import measured_on
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.engines.sessions import (
    BoundSession,
    check_provider,
    check_wheels,
    choose_device,
    choose_devices,
    open_session,
)

KEY = ("double", "only")
Spec = Callable[..., ModelSpec]


def engine(spec: ModelSpec, folder: Path, *, padded: bool = False) -> OnnxEngine:
    return OnnxEngine({KEY: spec}, folder, "cpu", sizes={KEY: (1, 2, 4)}, padded=padded)


def pair(value: float) -> np.ndarray:
    return np.full(2, value, np.float32)


def outputs(made: OnnxEngine, count: int) -> list[list[float]]:
    results = made.run(*KEY, [pair(i) for i in range(count)])
    assert all(result.output is not None for result in results)
    return [result.output.tolist() for result in results if result.output is not None]


def test_a_batch_runs_at_its_own_size(doubling: Spec, tmp_path: Path) -> None:
    made = engine(doubling(), tmp_path)
    assert made.load(*KEY) > 0
    assert outputs(made, 3) == [[0.0, 0.0, 3.0], [2.0, 2.0, 3.0], [4.0, 4.0, 3.0]]
    assert made.run(*KEY, []) == []


def test_a_padded_batch_runs_at_the_next_profiled_size(doubling: Spec, tmp_path: Path) -> None:
    made = engine(doubling(), tmp_path, padded=True)
    made.load(*KEY)
    assert outputs(made, 3) == [[0.0, 0.0, 4.0], [2.0, 2.0, 4.0], [4.0, 4.0, 4.0]]
    assert outputs(made, 1)[0][2] == 1.0
    assert outputs(made, 5)[0][2] == 5.0, "nothing holds five"


def test_a_payload_at_fault_spares_its_batch(doubling: Spec, tmp_path: Path) -> None:
    made = engine(doubling(), tmp_path)
    made.load(*KEY)
    first, wrong, last = made.run(*KEY, [pair(1), np.zeros(5, np.float32), pair(2)])
    assert wrong.error == "two numbers are needed, not [5]"
    assert (wrong.output, wrong.children) == (None, ())
    assert first.output is not None
    assert first.output.tolist() == [2.0, 2.0, 2.0]
    assert last.output is not None
    assert last.output.tolist() == [4.0, 4.0, 2.0]


def test_a_model_that_fails_is_an_engine_error(doubling: Spec, tmp_path: Path) -> None:
    made = engine(doubling(), tmp_path)
    made.load(*KEY)
    with pytest.raises(EngineError, match="the model failed on a batch of 1"):
        made.run(*KEY, [np.zeros(2, np.int32)])
    assert outputs(made, 1) == [[0.0, 0.0, 1.0]], "the engine goes on"


def test_a_batch_that_fails_is_run_item_by_item(doubling: Spec, tmp_path: Path) -> None:
    made = engine(doubling(), tmp_path)
    made.load(*KEY)
    wrong, *others = made.run(*KEY, [np.zeros(2, np.int32), pair(1), pair(2)])
    assert wrong.error is not None
    assert wrong.error.startswith("the model failed on a batch of 1")
    assert not wrong.to_blame
    assert [other.output.tolist() for other in others if other.output is not None] == [[2.0, 2.0, 1.0], [4.0, 4.0, 1.0]]


def test_items_of_another_shape_run_apart(doubling: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(doubling(), tmp_path)
    made.load(*KEY)
    monkeypatch.setattr(type(made.residents[KEY].adapter), "check", staticmethod(lambda _: None))
    first, wrong, last = made.run(*KEY, [pair(1), np.zeros(3, np.float32), pair(2)])
    assert wrong.error is not None
    assert wrong.error.startswith("the model failed on a batch of 1")
    assert [one.output.tolist() for one in (first, last) if one.output is not None] == [[2.0, 2.0, 2.0], [4.0, 4.0, 2.0]]
    with pytest.raises(EngineError, match="the model failed on a batch of 1"):
        made.run(*KEY, [np.zeros(3, np.float32), np.zeros(4, np.float32)])


@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_an_adapter_that_breaks_on_an_item_spares_the_others(
    step: str, doubling: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(doubling(), tmp_path)
    made.load(*KEY)
    adapter = made.residents[KEY].adapter
    usual, calls = getattr(adapter, step), iter(range(9))

    def breaks_on_the_second(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise IndexError("tuple index out of range")
        return usual(*arguments)

    monkeypatch.setattr(adapter, step, breaks_on_the_second)
    first, broken, last = made.run(*KEY, [pair(1), pair(2), pair(3)])
    assert broken == Produced(error="Doubling failed on it: tuple index out of range", to_blame=False)
    assert first.output is not None
    assert last.output is not None
    assert [first.output[0], last.output[0]] == [2.0, 6.0]


def test_loading_twice_is_free_and_unloading_is_final(doubling: Spec, tmp_path: Path) -> None:
    made = engine(doubling(), tmp_path)
    made.load(*KEY)
    resident = made.residents[KEY]
    made.load(*KEY)
    assert made.residents[KEY] is resident
    made.unload(*KEY)
    made.unload(*KEY)
    with pytest.raises(EngineError, match="'only' of task 'double' is not loaded"):
        made.run(*KEY, [pair(0)])


def test_a_load_that_fails_leaves_nothing(doubling: Spec, tmp_path: Path) -> None:
    missing = ModelSpec("absent", "doubling:Doubling")
    with pytest.raises(EngineError, match=r"there is no model .*absent"):
        engine(missing, tmp_path).load(*KEY)
    write_whole(model_path(tmp_path, "broken"), b"not a model")
    with pytest.raises(EngineError, match="cannot be loaded on cpu") as caught:
        engine(ModelSpec("broken", "doubling:Doubling"), tmp_path).load(*KEY)
    assert "\n" not in str(caught.value)
    made = engine(msgspec.structs.replace(doubling(), adapter="doubling:Halving"), tmp_path)
    with pytest.raises(EngineError, match="'only' of task 'double': adapter 'doubling:Halving'"):
        made.load(*KEY)
    assert made.residents == {}
    with pytest.raises(EngineError, match="names no model"):
        made.load("double", "other")


# -- devices --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this ONNX Runtime knows CUDA")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_cuda_on_a_host_without_it(wanted: str) -> None:
    with pytest.raises(EngineError, match=r"^cuda:\d was asked for, but .* install onnxruntime-gpu"):
        choose_device(wanted)


@pytest.mark.parametrize("wanted", ["gpu", "cuda:x", "cuda:", "cpu:0", ""])
def test_unknown_device(wanted: str) -> None:
    with pytest.raises(EngineError, match=r"use auto, cpu, cpu\+N, cuda, cuda:N, cuda:0,1"):
        choose_device(wanted)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that says it knows CUDA, with two GPUs of one kind and a third of another."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr("loki_rl.serving.engines.hardware._gpu_name", ["one kind", "one kind", "another"].__getitem__)


@pytest.mark.usefixtures("cuda")
def test_several_gpus_are_named_once_each_and_are_alike() -> None:
    assert choose_devices("cuda:1,0") == (Device("cuda", 1), Device("cuda", 0))
    assert measured_on("cuda:0,1")[:2] == ("one kind", "CUDAExecutionProvider")
    assert [dealt("cuda:1,0", worker) for worker in range(3)] == ["cuda:1", "cuda:0", "cuda:1"]
    for wanted, sentence in (("cuda:0,0", "names a GPU twice"), ("cuda:0,", "is unknown"), ("cuda:0,x", "is unknown")):
        with pytest.raises(EngineError, match=sentence):
            choose_devices(wanted)
    with pytest.raises(EngineError, match="one device is needed here"):
        choose_device("cuda:0,1")
    with pytest.raises(EngineError, match="are not alike"):
        measured_on("cuda:0,2")


def test_a_silent_fallback_is_found(doubling: Spec, tmp_path: Path) -> None:
    session = open_session(model_path(tmp_path, doubling().model), Device("cpu"))
    check_provider(session, Device("cpu"))
    with pytest.raises(EngineError, match="cuda:0 was asked for, but ONNX Runtime runs on CPUExecutionProvider"):
        check_provider(session, Device("cuda"))


def test_two_wheels_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    check_wheels()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.0")
    with pytest.raises(EngineError, match="both installed and break each other"):
        choose_device("auto")


@pytest.mark.parametrize(("option", "threads"), [("", 1), ("4", 4)])
def test_sessions_use_the_threads_of_their_device_and_do_not_spin(option: str, threads: int) -> None:
    options = sessions.session_options(Device("cpu", option=option))
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_bound_buffers_give_the_same_and_are_reused(doubling: Spec, tmp_path: Path) -> None:
    bound = BoundSession(open_session(model_path(tmp_path, doubling().model), Device("cpu")), Device("cpu"))
    for value in (1.0, 2.0):
        doubled, size = bound.run({"x": np.full((3, 2), value, np.float32)})
        assert doubled.tolist() == [[2 * value, 2 * value]] * 3
        assert size.tolist() == [[3.0]] * 3
    bound.run({"x": np.zeros((1, 2), np.float32)})
    assert len(bound.held) == 2


# -- real models ------------------------------------------------------------------------------------------------------------


def test_a_picture_is_read(reading: PipelineFile, fonts: tuple[Path, ...]) -> None:
    made = OnnxEngine(reading.models, reading.repository, "cpu")
    made.load("detection", "d640")
    made.load("recognition", "rs240q")
    shown = [render(number, 1, fonts) for number in range(4)]
    found = made.run("detection", "d640", [encoded(scene) for scene in shown])
    crops = [crop for produced in found for crop in produced.children[0]]
    texts = [
        msgspec.json.decode(result.output.tobytes(), type=Reading).text
        for result in made.run("recognition", "rs240q", crops)
        if result.output is not None
    ]
    assert len(texts) == len(crops)
    truth = [line.text for scene in shown for line in scene.lines]
    assert sum(any(same_text(text, true) for text in texts) for true in truth) / len(truth) > 0.6


def test_a_text_does_not_depend_on_its_batch(reading: PipelineFile, fonts: tuple[Path, ...]) -> None:
    made = OnnxEngine(reading.models, reading.repository, "cpu")
    crops = true_crops([render(number, 2, fonts) for number in range(3)])
    for variant in ("rt128", "rs160q"):
        made.load("recognition", variant)
        together = [_text(result.output) for result in made.run("recognition", variant, crops)]
        assert together == [_text(made.run("recognition", variant, [crop])[0].output) for crop in crops]


@pytest.mark.parametrize("variant", ["rt160", "rs240q", "rs240"])
def test_lines_of_any_width_are_read_in_one_batch(variant: str, reading: PipelineFile) -> None:
    made = OnnxEngine(reading.models, reading.repository, "cpu")
    made.load("recognition", variant)
    widths = (1, 2, 9, 30, 480)
    crops = [pack(Crop((0.0, 0.0, float(width), 48.0), np.full((48, width, 3), 200, np.uint8))) for width in widths]
    read = [msgspec.json.decode(_bytes(result.output), type=Reading) for result in made.run("recognition", variant, crops)]
    assert [reading.box[2] for reading in read] == list(widths)


def test_a_wrong_tensor_among_real_ones(reading: PipelineFile, fonts: tuple[Path, ...]) -> None:
    made = OnnxEngine(reading.models, reading.repository, "cpu")
    made.load("detection", "d320")
    picture = encoded(render(0, 1, fonts))
    good, cut_off, wrong = made.run("detection", "d320", [picture, picture[:2000], np.zeros((9, 9), np.float64)])
    assert good.error is None
    assert good.children[0]
    assert cut_off.error is not None
    assert "cannot be decoded" in cut_off.error
    assert wrong.error == "a picture must be of type uint8, not float64"


def _text(output: np.ndarray | None) -> str:
    return msgspec.json.decode(_bytes(output), type=Reading).text


def _bytes(output: np.ndarray | None) -> bytes:
    assert output is not None
    return output.tobytes()
