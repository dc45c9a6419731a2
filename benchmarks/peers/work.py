"""What is served side by side: the models, as a peer's server is told of them and as a pipeline file of ours names them.
Owns both forms of one work load; must not know a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import onnx
import yaml
from msgspec import Struct
from onnx import TensorProto, helper

from benchmarks.peers.pass_through import WIDTH
from benchmarks.peers.servers.spec import Kind, Spec, StageSpec
from loki_rl.core.pipeline import Task, Variant
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.serving.engines.model_repository import find_model

# Requests of null are not to be late: what is in flight is the client's choice.
NULL_SLO_S = 30.0
NULL_BATCH = 16
ADAPTERS = "benchmarks.peers.pass_through"
# Of *reading*: on a CPU a batch costs as much as its items alone, and a picture takes long enough by itself.
READING_BATCHES = (1, 8)


class Work(Struct, frozen=True):
    """One choice of models. pipeline: the file that our plane serves; stages and replicas: what a peer is told. accuracy: of
    the path of these models, where a peer serves them."""

    kind: Kind
    name: str
    pipeline: Path
    stages: tuple[StageSpec, StageSpec]
    replicas: int
    slo_s: float
    accuracy: float

    def spec(self, port: int) -> Spec:
        return Spec(self.kind, self.stages, self.replicas, self.slo_s, port)


def null_chain(folder: Path) -> Work:
    """Two models that do nothing, one after the other. Writes them and their pipeline file into the folder."""
    names = "null_a", "null_b"
    for name in names:
        _write_identity(folder / "models" / name / "1" / "model.onnx")
    variants = [{"only": _null_variant("null_a") | {"fanout": {"null_b": 1}}}, {"only": _null_variant("null_b")}]
    tasks: dict[str, Any] = {
        "null_a": {"adapter": f"{ADAPTERS}:First", "entry": 1, "variants": variants[0]},
        "null_b": {"adapter": f"{ADAPTERS}:Last", "parent": "null_a", "variants": variants[1]},
    }
    text = {"name": "null", "slo_ms": 1000 * NULL_SLO_S, "provenance": "assumed", "servers": 2, "hop_ms": 0.5}
    text |= {"source": "models that do nothing", "repository": "models", "leaf_weights": {"null_b": 1}, "tasks": tasks}
    files = [folder / "models" / name / "1" / "model.onnx" for name in names]
    first, second = (StageSpec(str(file.absolute()), str(file.parent.parent.absolute()), NULL_BATCH) for file in files)
    return Work("null", "null", _written(folder / "null.yaml", text), (first, second), 1, NULL_SLO_S, 1.0)


def _null_variant(name: str) -> dict[str, Any]:
    times = {1: 0.1, 4: 0.15, NULL_BATCH: 0.3}
    return {"model": name, "accuracy": 1, "latency_ms": times, "load_s": 0.05}


def _write_identity(file: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "null", ends[:1], ends[1:])
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)


def reading(folder: Path, name: str) -> Work:
    """*reading* with one model a task: `best` or `fastest`. Writes a pipeline file with these alone into the folder."""
    file = load_pipeline("reading")
    chosen = tuple(_chosen(task, name) for task in file.pipeline.tasks)
    path = tuple(variant.name for variant in chosen)
    detection, recognition = (
        _stage(file, task.name, variant.name, batch)
        for task, variant, batch in zip(file.pipeline.tasks, chosen, READING_BATCHES, strict=True)
    )
    pipeline = _written(folder / name / "reading.yaml", _narrowed(file, path))
    replicas, accuracy = len(os.sched_getaffinity(0)), load_pipeline(pipeline).pipeline.best_accuracy
    return Work("reading", name, pipeline, (detection, recognition), replicas, file.pipeline.slo_s, accuracy)


def _chosen(task: Task, name: str) -> Variant:
    if name == "best":
        return max(task.variants, key=lambda variant: variant.accuracy)
    return min(task.variants, key=lambda variant: variant.latency[1].p50)


def _stage(file: PipelineFile, task: str, variant: str, batch: int) -> StageSpec:
    model = file.models[task, variant]
    stored = find_model(file.repository, model.model)
    return StageSpec(str(stored.file.absolute()), str(stored.folder.absolute()), batch, model.adapter, dict(model.options))


def _narrowed(file: PipelineFile, path: tuple[str, ...]) -> dict[str, Any]:
    """The pipeline file as it is, with one variant a task."""
    text: dict[str, Any] = yaml.safe_load(file.path.read_text())
    for task, variant in zip(text["tasks"].values(), path, strict=True):
        task["variants"] = {variant: task["variants"][variant]}
    return text | {"profile": str(file.profile and file.profile.absolute()), "repository": str(file.repository.absolute())}


def _written(file: Path, text: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(text, sort_keys=False))
    return file.absolute()


def write_spec(spec: Spec, file: Path) -> Path:
    file.write_bytes(msgspec.json.encode(spec))
    return file.absolute()
