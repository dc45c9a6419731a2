"""Pipeline files: a YAML file and the profile that it names become one frozen Struct."""

from __future__ import annotations

import os
import shlex
from os.path import expanduser, isfile
from pathlib import Path

from msgspec import Struct

from loki_rl.core.pipeline import Latency, Pipeline, PipelineError, Provenance, Task, Variant
from loki_rl.files.pipeline_yaml import PipelineText, read_pipeline_text
from loki_rl.files.profile_file import Measured, ProfileFile, by_variant, load_profile
from loki_rl.files.tables import ConfigError, nearest
from loki_rl.files.user_folders import models_folder, profiles_folder

__all__ = ["ConfigError", "ModelSpec", "PipelineFile", "TaskSpec", "find_pipeline", "is_path", "load_pipeline"]

FOLDER = "pipelines"
# In a checkout a link to the folder at its top.
PACKAGE = Path(__file__).parents[1]
PACKAGED = PACKAGE / FOLDER

Key = tuple[str, str]


class ModelSpec(Struct, frozen=True):
    """What to run for a variant. model: folder in the model repository (MODEL/VERSION/model.onnx, as Triton lays it out), or
    MODEL/VERSION. adapter: "module:Class" that turns items into tensors and back. options: its arguments."""

    model: str
    adapter: str
    options: dict[str, object] = {}


class TaskSpec(Struct, frozen=True):
    """A task as far as the pipeline file alone describes it, without any measured figure."""

    name: str
    parent: str | None
    entry: float
    variants: tuple[str, ...]


class PipelineFile(Struct, frozen=True):
    """A pipeline file with everything that it refers to.

    name, provenance, source: as it says; provenance: of its figures. path, profile: the files read (profile: None if there
    is none). named_profile: what the file names. own_profile: where a profile measured here is kept, which then counts: the
    same file, or for a pipeline that comes with the package one in the user's data folder. repository: folder of the models,
    need not exist. tree: its tasks, in the order of the file. models: (task, variant) -> what to run; empty for a pipeline
    known by its figures only. workload: "module:Class" of what it is measured and played with. measured: the profile's
    content, None if it was not asked for or there is none. known: with all figures, see `pipeline`.
    """

    name: str
    path: Path
    tree: tuple[TaskSpec, ...]
    models: dict[Key, ModelSpec]
    repository: Path
    profile: Path | None
    named_profile: Path | None
    own_profile: Path | None
    provenance: Provenance
    source: str
    workload: str | None = None
    measured: ProfileFile | None = None
    known: Pipeline | None = None

    @property
    def in_place_of_shipped(self) -> bool:
        """Whether the figures are the user's own, of a pipeline that comes with others."""
        return self.profile == self.own_profile != self.named_profile

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline with all figures. Raises ConfigError if the file was loaded without its profile."""
        if self.known is None:
            raise ConfigError(f"{self.path}: no figures yet; run 'loki-rl profile {self.argument}'")
        return self.known

    @property
    def argument(self) -> str:
        """What a command is given to find this file."""
        return _argument(self.path)


def load_pipeline(
    path: str | Path, *, need_profile: bool = True, profile: Path | None = None, slo_ms: float | None = None
) -> PipelineFile:
    """Load a pipeline file, or a bare name such as "traffic".

    path: the one or the other. A figure written in the file counts; what it leaves out is taken from the profile. profile:
    use this file instead of the one named. slo_ms: use this SLO [ms] instead of the file's. need_profile=False: do not open
    the profile; `.pipeline` then raises unless all figures stand in the file. Relative paths in the file start at the file's
    own folder; without `repository` the models are the user's. Raises ConfigError, one sentence, for everything that is
    wrong with the file, the profile or the two together.
    """
    text = read_pipeline_text(find_pipeline(path))
    folder = text.path.parent
    named = None if text.head.profile is None else beside(folder, text.head.profile)
    own = profiles_folder() / named.name if named is not None and _is_shipped(text.path) else named
    source = profile or (own if own is not None and isfile(own) else named)
    measured = load_profile(source, str(text.path), _argument(text.path)) if source is not None and need_profile else None
    return PipelineFile(
        name=text.head.name,
        path=text.path,
        tree=tuple(_task_spec(text, name) for name in text.tasks),
        models=_models(text),
        repository=models_folder() if text.head.repository is None else beside(folder, text.head.repository),
        profile=source,
        named_profile=named,
        own_profile=own,
        provenance=text.provenance,
        source=text.head.source,
        workload=text.head.workload,
        measured=measured,
        known=_pipeline(text, source, measured, slo_ms) if need_profile or _has_figures(text, source) else None,
    )


def find_pipeline(name: str | Path) -> Path:
    """The file of a path, or of a bare name: pipelines/NAME.yaml of the working folder, then of the package.

    Raises ConfigError if there is none; it suggests the nearest name."""
    return find_file(name, FOLDER, "pipeline")


def find_file(name: str | Path, place: str, what: str) -> Path:
    """The YAML file of a path, or of a bare name in a folder `place` of the working folder, then of the package.

    Raises ConfigError, about `what` it is, if there is none."""
    given = Path(expanduser(name))
    folders = (Path(place), (PACKAGE / place).resolve())
    if is_path(name):
        if isfile(given):
            return given
        raise ConfigError(f"{given}: no such {what} file; check the path")
    for folder in folders:
        if isfile(folder / f"{given}.yaml"):
            return folder / f"{given}.yaml"
    known = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    raise ConfigError(f"no {what} '{given}' in {folders[0]}/ or {folders[1]}/{nearest(str(given), known)}")


def is_path(name: str | Path) -> bool:
    """Whether a file is meant, not a bare name."""
    given = Path(expanduser(name))
    return given.suffix in {".yaml", ".yml"} or len(given.parts) != 1


def beside(folder: Path, name: str) -> Path:
    """A path written in a file of this folder."""
    return Path(os.path.normpath(folder / Path(expanduser(name))))


def _is_shipped(path: Path) -> bool:
    """Whether it comes with an installed package or lies in a checkout, of which a measurement changes nothing."""
    folder = path.resolve().parent
    return folder in (PACKAGED.resolve(), (folder.parent / PACKAGE.name / FOLDER).resolve())


def _argument(path: Path) -> str:
    return path.stem if _is_shipped(path) else shlex.quote(str(path))


def _task_spec(text: PipelineText, name: str) -> TaskSpec:
    task = text.tasks[name]
    # One item per request is what a pipeline with a single entry nearly always means.
    entry = task.entry if task.entry is not None else float(task.parent is None)
    return TaskSpec(name, task.parent, entry, tuple(text.variants_of(name)))


def _models(text: PipelineText) -> dict[Key, ModelSpec]:
    return {
        (task, name): ModelSpec(variant.model, text.tasks[task].adapter or "", variant.options)
        for (task, name), variant in text.variants.items()
        if variant.model is not None
    }


def _has_figures(text: PipelineText, source: Path | None) -> bool:
    return source is None and all(variant.latency_ms for variant in text.variants.values())


# -- figures --------------------------------------------------------------------------------------------------------------


def _pipeline(text: PipelineText, file: Path | None, measured: ProfileFile | None, slo_ms: float | None) -> Pipeline:
    head, figures = text.head, {} if measured is None else by_variant(measured)
    leaves = [name for name in text.tasks if not text.children(name)]
    tasks = tuple(
        Task(
            spec.name,
            tuple(_variant(text, (spec.name, name), file, figures) for name in spec.variants),
            spec.parent,
            spec.entry,
        )
        for spec in (_task_spec(text, name) for name in text.tasks)
    )
    try:
        pipeline = Pipeline(
            name=head.name,
            slo_s=(head.slo_ms if slo_ms is None else slo_ms) / 1000,
            tasks=tasks,
            leaf_weights=head.leaf_weights or ({leaves[0]: 1.0} if len(leaves) == 1 else {}),
            path_accuracy=_path_accuracy(text, measured),
            padded=measured.padded if measured else head.padded is not False,
            swap=text.swap,
            servers=head.servers,
            hop_s=head.hop_ms / 1000,
            provenance=text.provenance,
            source=head.source,
        )
    except PipelineError as error:
        raise ConfigError(f"{text.path}: {error}") from error
    _check_slo(pipeline, text.path)
    return pipeline


def _check_slo(pipeline: Pipeline, path: Path) -> None:
    fastest_ms = 1000 * pipeline.fastest_path_s
    if pipeline.slo_s < pipeline.fastest_path_s:
        raise ConfigError(
            f"{path}: an SLO of {1000 * pipeline.slo_s:g} ms cannot be met, since the fastest path takes "
            f"{fastest_ms:.1f} ms; raise slo_ms or add a faster variant"
        )


def _path_accuracy(text: PipelineText, measured: ProfileFile | None) -> dict[tuple[str, ...], float]:
    # A profile may be older than the file: paths over variants that the file no longer has are of no use.
    rows = measured.paths if measured else ()
    return {row.path: row.accuracy for row in rows if text.is_path(row.path)} | text.path_accuracy


def _variant(text: PipelineText, key: Key, file: Path | None, figures: dict[Key, Measured]) -> Variant:
    own, where, known = text.variants[key], text.where(*key), figures.get(key, Measured())
    latency = {batch: _latency(row, f"{where}, latency_ms {batch}") for batch, row in own.latency_ms.items()}
    latency = latency or known.latency
    fanout = known.fanout | own.fanout
    accuracy = known.accuracy if own.accuracy is None else own.accuracy
    # A load time of 0 by omission would make every switch look free, so a profile must have it.
    load_s = own.load_s if own.load_s is not None else known.load_s if file else 0.0
    missing = [] if latency else ["latency_ms"]
    missing += [f"fanout to '{child}'" for child in text.children(key[0]) if child not in fanout]
    missing += [] if load_s is not None else ["load_s"]
    if missing or accuracy is None or load_s is None:
        raise ConfigError(_missing(text, where, (*missing, "accuracy")[0], file))
    return Variant(
        name=key[1],
        accuracy=accuracy,
        latency=latency,
        fanout={child: fanout[child] for child in text.children(key[0])},
        load_s=load_s,
        memory_mb=(known.memory_mb or 0.0) if own.memory_mb is None else own.memory_mb,
        sample_s=0.0 if own.latency_ms else known.sample_s,
    )


def _missing(text: PipelineText, where: str, what: str, file: Path | None) -> str:
    command = f"loki-rl profile {_argument(text.path)}"
    if file is None:
        return f"{where}: {what} is missing; add it, or name a 'profile' and run '{command}'"
    if what.startswith(("accuracy", "fanout")) and text.head.workload is None:
        # Times are measured on any payload, these only on labelled ones.
        return (
            f"{where}: {what} is neither here nor in {file}; write it there, or measure it on labelled files: "
            f"'{command} --data FOLDER --scorer MODULE:FUNCTION'"
        )
    return f"{where}: {what} is neither here nor in {file}; run '{command}'"


def _latency(row: float | list[float], where: str) -> Latency:
    percentiles = row if isinstance(row, list) else [row]
    if not 1 <= len(percentiles) <= 3:
        raise ConfigError(f"{where}: expected p50, [p50, p95] or [p50, p95, p99], got {len(percentiles)} numbers")
    p50, p95, p99 = (*percentiles, *(percentiles[-1],) * (3 - len(percentiles)))
    return Latency(p50 / 1000, p95 / 1000, p99 / 1000)
