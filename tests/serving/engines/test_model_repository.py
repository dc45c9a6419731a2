"""Model repositories in Triton's layout, with and without config.pbtxt, down to a session that runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from loki_rl.files.config import ModelSpec
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.files import ModelError
from loki_rl.serving.engines.model_repository import CONFIG, Declared, find_model
from loki_rl.serving.engines.onnx_engine import OnnxEngine

KEY = ("double", "only")
GOOD = """
name: "twice"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [{ name: "x", data_type: TYPE_FP32, dims: [2] }]
output [{ name: "y", data_type: TYPE_FP32, dims: [2] }, { name: "size", data_type: TYPE_FP32, dims: [1] }]
instance_group [{ count: 1, kind: KIND_CPU }]
"""

Spec = Callable[..., ModelSpec]


def put(repository: Path, *versions: int, config: str | None = None, file: str = "model.onnx") -> None:
    """Empty model files: enough to be found."""
    for version in versions:
        (repository / "twice" / str(version)).mkdir(parents=True, exist_ok=True)
        (repository / "twice" / str(version) / file).touch()
    if config is not None:
        (repository / "twice" / CONFIG).write_text(config)


def found(repository: Path, model: str = "twice") -> str:
    return str(find_model(repository, model).file.relative_to(repository))


def test_the_highest_version_is_meant_unless_one_is_named(tmp_path: Path) -> None:
    put(tmp_path, 1, 9, 10)
    (tmp_path / "twice" / "readme").mkdir()
    assert found(tmp_path) == "twice/10/model.onnx"
    assert found(tmp_path, "twice/9") == "twice/9/model.onnx"


def test_a_configuration_chooses_versions_file_and_batch(tmp_path: Path) -> None:
    policy = "version_policy: { specific: { versions: [1, 9] } }"
    put(tmp_path, 1, 9, 10, config=f'{GOOD} {policy} default_model_filename: "net.onnx"', file="net.onnx")
    stored = find_model(tmp_path, "twice")
    assert stored.file == tmp_path / "twice" / "9" / "net.onnx"
    assert (stored.max_batch, stored.ports["y"]) == (8, Declared("tensor(float)", (-1, 2)))


@pytest.mark.parametrize("model", ["absent", "twice/3", "twice/x", "twice/"])
def test_what_is_not_there_is_named(tmp_path: Path, model: str) -> None:
    put(tmp_path, 1)
    with pytest.raises(ModelError, match=f"there is no model {tmp_path}/{model.split('/')[0]}/"):
        find_model(tmp_path, model)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("max_batch_size: many", "is not a model configuration: 1:17 : "),
        ("parameters {" * 20_000, "is not a model configuration: maximum recursion depth"),
        ("# nothing\n" * 30_000, "is larger than 256 KB"),
        ('backend: "python"', "is for 'python'; only ONNX models can be served"),
        ("max_batch_size: -3", "max_batch_size must be at least 0, not -3"),
        ('default_model_filename: "../../secret.onnx"', "must be a file's name alone, not '../../secret.onnx'"),
        ('platform: "ensemble"', "is for 'ensemble'; only ONNX models can be served"),
    ],
)
def test_a_configuration_that_cannot_be_served_says_so(tmp_path: Path, config: str, sentence: str) -> None:
    put(tmp_path, 1, config=config)
    with pytest.raises(ModelError, match=sentence) as caught:
        find_model(tmp_path, "twice")
    assert "\n" not in str(caught.value)


def test_without_the_extra_a_configuration_is_not_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 1, config=GOOD)
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(ModelError, match=r"needs the extra loki-rl\[grpc\]"):
        find_model(tmp_path, "twice")


def engine(spec: ModelSpec, repository: Path, *sizes: int) -> OnnxEngine:
    return OnnxEngine({KEY: spec}, repository, "cpu", sizes={KEY: sizes or (1,)})


@pytest.mark.parametrize("dims", ["dims: [-1]", "dims: [1, 2] reshape: { shape: [2] }"])
def test_open_and_reshaped_sizes_contradict_nothing(doubling: Spec, tmp_path: Path, dims: str) -> None:
    spec = doubling()
    (tmp_path / "twice" / CONFIG).write_text(GOOD.replace("dims: [2]", dims, 1))
    engine(spec, tmp_path, 1, 8).load(*KEY)


def test_a_repository_of_triton_drops_in(doubling: Spec, tmp_path: Path) -> None:
    spec = doubling()
    (tmp_path / "twice" / "1").rename(tmp_path / "twice" / "3")
    (tmp_path / "twice" / CONFIG).write_text(GOOD)
    for model in ("twice", "twice/3"):
        made = engine(msgspec.structs.replace(spec, model=model), tmp_path, 1, 8)
        made.load(*KEY)
        (result,) = made.run(*KEY, [np.ones(2, np.float32)])
        assert result.output is not None
        assert result.output[:2].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (GOOD.replace('"x"', '"image"'), "names 'image' as .*, but in .* it is none of its size, x, y"),
        (GOOD.replace("TYPE_FP32", "TYPE_INT8", 1), r"names 'x' as tensor\(int8\) .*, but in .* it is tensor\(float\)"),
        (GOOD.replace("dims: [2]", "dims: [3]", 1), r"names 'x' as tensor\(float\) \[-1, 3\], .* tensor\(float\) \[-1, 2\]"),
        (GOOD.replace("dims: [2]", "dims: [2, 1]", 1), r"names 'x' as tensor\(float\) \[-1, 2, 1\]"),
        (GOOD.replace("8", "0"), r"names 'x' as tensor\(float\) \[2\]"),
        (GOOD.replace("8", "4"), "allows batches of 4, the profile has 8"),
    ],
)
def test_a_model_that_is_not_as_configured_is_not_served(doubling: Spec, tmp_path: Path, config: str, sentence: str) -> None:
    spec = doubling()
    (tmp_path / "twice" / CONFIG).write_text(config)
    with pytest.raises(EngineError, match=f"variant 'only' of task 'double': .*{sentence}"):
        engine(spec, tmp_path, 1, 8).load(*KEY)
