"""Pipeline files: YAML -> frozen Structs. Owns the format and what a wrong file is told; knows no command and loads no
model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from msgspec import Struct, structs

from loki_rl.core.pipeline import Latency, Pipeline, PipelineError, Provenance, Swap, Task, Variant
from loki_rl.profile_file import ProfileFile
from loki_rl.tables import ConfigError, keyed, nearest, read_yaml, table

__all__ = ["ConfigError", "ModelSpec", "PipelineFile", "TaskSpec"]

FOLDER = "pipelines"


class ModelSpec(Struct, frozen=True):
    """What to run for a variant. model: folder in the model repository (MODEL/1/model.onnx). adapter: "module:Class" that
    turns items into tensors and back. options: its arguments."""

    model: str
    adapter: str
    options: dict[str, object] = {}


class TaskSpec(Struct, frozen=True):
    """A task as far as the pipeline file alone describes it, without any measured figure. Parents stand first."""

    name: str
    parent: str | None
    entry: float
    variants: tuple[str, ...]


class PipelineFile(Struct, frozen=True):
    """A pipeline file with everything that it refers to.

    path, profile: the files read (profile: None if the file names none). repository: folder of the models, need not exist.
    models: (task, variant) -> what to run; empty for a pipeline known by its figures only. measured: the profile's content,
    None if it was not needed or there is none.
    """

    name: str
    path: Path
    tree: tuple[TaskSpec, ...]
    models: dict[tuple[str, str], ModelSpec]
    repository: Path
    profile: Path | None
    provenance: Provenance
    source: str
    measured: ProfileFile | None = None
    known: Pipeline | None = None

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline with all figures. Raises ConfigError if the file was loaded without its profile."""
        if self.known is None:
            raise ConfigError(f"{self.path}: no figures yet; run 'loki-rl profile {self.name}'")
        return self.known


class _VariantTable(Struct, frozen=True):
    model: str | None = None
    options: dict[str, object] = {}
    accuracy: float | None = None
    latency_ms: dict[int, float | list[float]] = {}
    fanout: dict[str, float] = {}
    load_s: float | None = None
    memory_mb: float | None = None


class _TaskTable(Struct, frozen=True):
    variants: dict[str, object]
    parent: str | None = None
    entry: float | None = None
    adapter: str | None = None


class _PathTable(Struct, frozen=True):
    path: list[str]
    accuracy: float


class _FileTable(Struct, frozen=True):
    name: str
    slo_ms: float
    provenance: str
    tasks: dict[str, object]
    source: str = ""
    servers: int = 1
    swap: str = "break"
    hop_ms: float = 0.5
    repository: str = "../models"
    profile: str | None = None
    padded: bool | None = None
    leaf_weights: dict[str, float] | None = None
    path_accuracy: list[object] = []
