"""Models, adapter and scorer of a user's own, as the documentation shows them: measured, planned with and served."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper
from PIL import Image

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import ProfileFile
from loki_rl.runs.live import goes_without
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.files import model_path, write_whole
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.gateway.schema import described
from loki_rl.serving.plane import PlaneFile, pack_options
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.profiling.labelled import Labelled, ScorerError, load_labelled
from loki_rl.serving.profiling.payload_files import PayloadsError
from loki_rl.serving.profiling.profile import Request, profile
from loki_rl.serving.profiling.timing import Effort
from loki_rl.serving.profiling.workload import entry_payloads, quiet
from loki_rl.serving.transport.protocol import Tensor
from tests.serving.driving import eventually

ROOT = Path(__file__).parents[3]
SHADES = {"dark_01.png": 20, "dark_02.png": 90, "light_01.png": 160, "light_02.png": 240}


def tone(threshold: float) -> onnx.ModelProto:
    """image [N, 3, H, W] -> scores [N, 2] of dark and light: how far its mean is from the threshold."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sub", ["mean", "threshold"], ["off"]),
        helper.make_node("Neg", ["off"], ["dark"]),
        helper.make_node("Unsqueeze", ["dark", "axis"], ["first"]),
        helper.make_node("Unsqueeze", ["off", "axis"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tone",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [
            helper.make_tensor("threshold", TensorProto.FLOAT, [], [threshold]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page tells a user to write, and two models: `small` takes 90 of 255 for light."""
    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    for (kind, text), name in zip(blocks, ("classify.py", "tone.yaml", "score.py"), strict=True):
        assert name.endswith(".py") == (kind == "python")
        (folder / name).write_text(text)
    for name, threshold in (("tone_small", 0.3), ("tone_large", 0.5)):
        path = model_path(folder / "models", name)
        write_whole(path, tone(threshold).SerializeToString())
        (path.parents[1] / "labels.txt").write_text("dark light")
    (folder / "pictures").mkdir()
    for name, shade in SHADES.items():
        Image.new("RGB", (80, 50), (shade, shade, shade)).save(folder / "pictures" / name)
    return folder


def test_the_documented_pipeline_is_measured_and_served(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    monkeypatch.syspath_prepend(str(site))
    words = [
        "profile",
        "tone.yaml",
        "--data",
        "pictures",
        "--scorer",
        "score:score",
        "--budget-s",
        "0.02",
        "--device",
        "cpu",
    ]
    subprocess.run([sys.executable, "-m", "loki_rl", *words], cwd=site, check=True, capture_output=True)
    measured = ProfileFile.load(site / "tone.json")
    assert {one.path: one.accuracy for one in measured.paths} == {("small",): 0.75, ("large",): 1.0}
    assert {one.variant: one.accuracy for one in measured.accuracies} == {"small": 0.75, "large": 1.0}
    assert "--data pictures --scorer score:score" in measured.command
    pipeline = load_pipeline(site / "tone.yaml", slo_ms=10_000.0).pipeline
    options = {"servers": 1, "demand_rps": 1.0}
    plane = LocalPlane(
        ClusterOptions(pipeline, 1),
        engine="onnx",
        pipeline_file=str(site / "tone.yaml"),
        policy="static",
        policy_options=options,
    )
    with plane, Client(plane.front) as client:
        client.wait_ready(30.0)
        for name in SHADES:
            answer = client.infer(np.frombuffer((site / "pictures" / name).read_bytes(), np.uint8))
            assert [output.tobytes().decode() for output in answer.outputs] == [name.split("_")[0]]
            assert answer.accuracy == 1.0


def test_an_adapter_may_say_what_clients_send_and_get(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    declared = re.search(r"    (takes = .*?)  #.*\n    (gives = .*)\n", (ROOT / "docs" / "models.md").read_text())
    assert declared is not None
    lines = (
        "from loki_rl.serving.transport.protocol import Tensor",
        "from classify import Classify",
        "class Price(Classify):",
    )
    (site / "price.py").write_text("\n".join((*lines, f"    {declared[1]}", f"    {declared[2]}", "")))
    (site / "price.yaml").write_text((site / "tone.yaml").read_text().replace("classify:Classify", "price:Price"))
    variant = Variant("small", 1.0, {1: Latency(0.001, 0.001, 0.001)})
    pipeline = Pipeline("tone", 1.0, (Task("classify", (variant,), entry=1.0),), {"classify": 1.0})
    plane = PlaneFile(pack_options(ClusterOptions(pipeline, 1)), (), "", "onnx", pipeline_file=str(site / "price.yaml"))
    found = described(plane)
    assert (found.input, found.output) == (Tensor("features", "FP32", (13,)), Tensor("price", "BYTES", (-1,)))


def test_a_model_file_that_goes_missing_is_planned_without_until_it_is_back(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start it is damaged: the plane starts all the same. Whole again it serves. Then it goes, and its worker too."""
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    shutil.copytree(site / "models", tmp_path / "models")
    shutil.copy(site / "tone.yaml", tmp_path)
    file = model_path(tmp_path / "models", "tone_large")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    picture = np.frombuffer((site / "pictures" / "light_01.png").read_bytes(), np.uint8)
    with plane_of_tones(tmp_path) as plane, Client(plane.front) as client:

        def excluded() -> list[tuple[str, str]]:
            control = client.state().control
            return [] if control is None else [(one.task, one.variant) for one in control.excluded]

        def served_by() -> tuple[str, ...]:
            answer = client.infer(picture)
            return tuple(answer.served[0]) if answer.outcome == "ok" else ()

        assert served_by() == ("small",)
        assert excluded() == [("classify", "large")]
        (fault,) = goes_without(client.state())
        assert fault.startswith("'large' of 'classify' cannot be loaded: ")
        assert fault.endswith("; plans do without it, and it is tried again from time to time")
        write_whole(file, whole)
        eventually(lambda: served_by() == ("large",), "it was not tried again")
        assert excluded() == []
        assert goes_without(client.state()) == []
        file.unlink()
        os.kill(plane.pids["workers-0"], signal.SIGKILL)
        eventually(lambda: excluded() == [("classify", "large")], "the missing file was not noticed")
        eventually(lambda: served_by() == ("small",), "nothing is served without it")
        control = client.state().control
        assert control is not None
        assert "there is no model" in control.excluded[0].reason
        plane.check()


WORKLOAD = """
import numpy as np
from io import BytesIO
from PIL import Image
from loki_rl.files.profile_file import PathAccuracy, StageAccuracy
from loki_rl.serving.profiling.workload import Quality

class Shades:
    about = "share of grey pictures named right"
    def __init__(self, file, count, seed, progress):
        self.shades = np.random.default_rng(seed).integers(0, 256, count)
        progress("draw", 1.0)
    def payloads(self, task):
        return [np.full((40, 40, 3), shade, np.uint8) for shade in self.shades]
    def quality(self, file, engine, progress):
        task, shares = file.tree[0], {}
        for variant in task.variants:
            engine.load(task.name, variant)
            said = [engine.run(task.name, variant, [one])[0].output.tobytes() for one in self.payloads(task)]
            right = [(word == b"light") == (shade >= 128) for word, shade in zip(said, self.shades)]
            shares[variant] = float(np.mean(right))
        accuracies = tuple(StageAccuracy(task.name, variant, share) for variant, share in shares.items())
        return Quality(accuracies, (), tuple(PathAccuracy((variant,), share) for variant, share in shares.items()))
"""


def test_an_application_brings_a_workload_of_its_own(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    (site / "shades.py").write_text(WORKLOAD)
    path = site / "shades.yaml"
    path.write_text((site / "tone.yaml").read_text().replace("profile:", "workload: shades:Shades\nprofile:"))
    file = load_pipeline(path, need_profile=False)
    said: list[str] = []
    request = Request("cpu", samples=40, effort=Effort(0.0, 2, 2, 1), sizes={"classify": (1,)})
    made = profile(file, request, lambda what, _: said.append(what))
    small, large = (one.accuracy for one in made.accuracies)
    assert 0.5 < small < large == 1.0
    assert {one.path: one.accuracy for one in made.paths} == {("small",): small, ("large",): large}
    assert made.provenance.endswith("accuracy: share of grey pictures named right")
    assert said[0] == "draw"
    first, again = entry_payloads(file, 3, 5, "cpu"), entry_payloads(file, 3, 5, "cpu")
    assert len(first) == 3
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_pipeline_without_a_workload_is_played_with_its_adapters_sample(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(site))
    file = load_pipeline(site / "tone.yaml", need_profile=False)
    assert [one.shape for one in entry_payloads(file, 3, 5, "cpu")] == [(32, 32, 3)]


def test_a_workload_that_cannot_be_loaded_is_named(site: Path) -> None:
    file = replace(load_pipeline(site / "tone.yaml", need_profile=False), workload="nowhere:Shades")
    with pytest.raises(EngineError, match=r"tone.yaml: workload 'nowhere:Shades' cannot be loaded: No module named"):
        entry_payloads(file, 3, 5, "cpu")


def test_a_workload_that_does_not_fit_says_what_fits(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    own = "loki_rl.reading.workload:RenderedScenes"
    file = replace(load_pipeline(site / "tone.yaml", need_profile=False), workload=own)
    with pytest.raises(EngineError, match=r"RenderedScenes fits one task of TextDetection with one child"):
        entry_payloads(file, 3, 5, "cpu")


def plane_of_tones(folder: Path) -> LocalPlane:
    """One server; figures for which the policy always wants `large`."""
    quick = {1: Latency(0.001, 0.002, 0.003)}
    variants = tuple(Variant(name, accuracy, quick) for name, accuracy in (("small", 0.75), ("large", 1.0)))
    pipeline = Pipeline("tone", 5.0, (Task("classify", variants, entry=1.0),), {"classify": 1.0})
    return LocalPlane(
        ClusterOptions(pipeline, 1, interval_s=1.0),
        engine="onnx",
        pipeline_file=str(folder / "tone.yaml"),
        policy="loki",
        policy_options={"initial_rps": 1.0},
        check=True,
    )


def test_the_adapter_is_as_short_as_promised(site: Path) -> None:
    lines = (site / "classify.py").read_text().partition("class Classify")[2].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 20


@pytest.mark.parametrize(
    ("folder", "scorer", "sentence"),
    [
        ("nowhere", "score:score", "--data .*nowhere is not a folder with files in it"),
        ("pictures", "score", "--scorer score cannot be loaded: it must read module:name"),
        (
            "pictures",
            "scoer:score",
            "--scorer scoer:score cannot be loaded: .* is its folder on PYTHONPATH",
        ),
        ("pictures", "score:scor", "--scorer score:scor cannot be loaded: "),
    ],
)
def test_data_or_a_scorer_that_is_not_there(
    site: Path, monkeypatch: pytest.MonkeyPatch, folder: str, scorer: str, sentence: str
) -> None:
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises((PayloadsError, ScorerError), match=sentence) as told:
        load_labelled(site / folder, scorer)
    assert ("PYTHONPATH" in str(told.value)) == scorer.startswith("scoer")


def test_what_a_scorer_or_an_adapter_cannot_take_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    file = load_pipeline(site / "tone.yaml", need_profile=False)
    engine = OnnxEngine(file.models, file.repository, "cpu")
    good = load_labelled(site / "pictures", "score:score")
    with pytest.raises(EngineError, match=r"the scorer gives 7 for 'dark_01.png', which is not in 0..1"):
        Labelled(good.names, good.contents, lambda *_: 7).quality(file, engine, quiet)
    text = np.frombuffer(b"text", np.uint8)
    with pytest.raises(EngineError, match="'text' was refused: the payload is not a JPEG or PNG picture"):
        Labelled(("text",), (text,), good.score).quality(file, engine, quiet)
