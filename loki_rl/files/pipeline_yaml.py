"""The text form of a pipeline: which keys a pipeline file has and of what type."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar, get_args

from msgspec import Struct

from loki_rl.core.pipeline import Provenance, Swap
from loki_rl.files.tables import ConfigError, nearest, read_yaml, require, table
from loki_rl.options import Help

C = TypeVar("C", bound=str)

_NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class VariantTable(Struct, frozen=True):
    """A variant of a task. What is left out of its figures must be in the profile."""

    model: Annotated[
        str | None,
        Help(
            "Folder of the model in the repository (MODEL/VERSION/model.onnx), or MODEL/VERSION; only with an adapter, and "
            "needed there."
        ),
    ] = None
    options: Annotated[dict[str, object], Help("Arguments of the adapter.")] = {}
    accuracy: Annotated[
        float | None, Help("Of the variant on its own, 0 to 1, relative to the best known; else the profile's.")
    ] = None
    latency_ms: Annotated[
        dict[int, float | list[float]],
        Help("Batch size to p50, [p50, p95] or [p50, p95, p99] of its service time [ms]; else the profile's."),
    ] = {}
    fanout: Annotated[dict[str, float], Help("Child task to mean children of one item; else the profile's.")] = {}
    load_s: Annotated[float | None, Help("From the order to the first batch [s]; else the profile's, or 0.")] = None
    memory_mb: Annotated[float | None, Help("While resident [MB]; else the profile's, or 0.")] = None


class TaskTable(Struct, frozen=True):
    """A task: `tasks: {NAME: ...}`."""

    variants: Annotated[dict[str, object], Help("Name to variant; see below.")]
    parent: Annotated[
        str | None, Help("The task whose items make those of this one; it stands above it in the file.")
    ] = None
    entry: Annotated[
        float | None, Help("Mean items of this task per request, of a task without parent. Without: 1.")
    ] = None
    adapter: Annotated[
        str | None,
        Help("module:Class that turns items into tensors and back; without it the pipeline is served by emulated workers."),
    ] = None


class PathTable(Struct, frozen=True):
    """The accuracy of one path, where that is not the product of its variants."""

    path: Annotated[list[str], Help("One variant of each task, from an entry task to a leaf.")]
    accuracy: Annotated[float, Help("End to end, 0 to 1.")]


class FileTable(Struct, frozen=True):
    """A pipeline file."""

    name: Annotated[str, Help("One word; clients ask for it.")]
    slo_ms: Annotated[float, Help("End-to-end deadline of a request that names none [ms].")]
    provenance: Annotated[
        str, Help("Where the figures come from: measured, published or assumed. It is said beside every result.")
    ]
    tasks: Annotated[dict[str, object], Help("Name to task, parents first; see below.")]
    source: Annotated[str, Help("Where exactly, in words.")] = ""
    servers: Annotated[int, Help("How many there are unless a command says otherwise.")] = 1
    swap: Annotated[
        str,
        Help(
            "How a server changes its model: break (unload, then load) or make (serve on until the new one is warm, where "
            "memory holds both)."
        ),
    ] = "break"
    hop_ms: Annotated[float, Help("What one message between two processes takes, for twin and plans [ms].")] = 0.5
    repository: Annotated[
        str | None, Help("Folder of the models; it starts at the folder of this file. Else the user's models.")
    ] = None
    profile: Annotated[
        str | None, Help("File of measured figures, from and for 'loki-rl profile'; it starts at the folder of this file.")
    ] = None
    workload: Annotated[str | None, Help("module:Class that makes payloads with known answers.")] = None
    padded: Annotated[
        bool | None,
        Help(
            "Whether the engine runs the next larger listed batch size and fills it up (GPU); else times between sizes are "
            "interpolated. Not beside a profile, which knows."
        ),
    ] = None
    leaf_weights: Annotated[
        dict[str, float], Help("Leaf task to its weight in a request's accuracy; they sum to 1. Only one leaf needs none.")
    ] = {}
    path_accuracy: Annotated[
        list[object],
        Help("Accuracies of whole paths; see below. A path that is not listed has the product of its variants."),
    ] = []


class PipelineText(Struct, frozen=True):
    """A pipeline file that is right in itself. variants: (task, variant) -> its table, in the order of the file."""

    path: Path
    head: FileTable
    provenance: Provenance
    swap: Swap
    tasks: dict[str, TaskTable]
    variants: dict[tuple[str, str], VariantTable]
    path_accuracy: dict[tuple[str, ...], float]

    def where(self, task: str, variant: str | None = None) -> str:
        """The start of a sentence about a part of this file."""
        return place(self.path, task, variant)

    def children(self, task: str) -> list[str]:
        return [name for name, other in self.tasks.items() if other.parent == task]

    def variants_of(self, task: str) -> list[str]:
        return [variant for owner, variant in self.variants if owner == task]

    def lines(self) -> list[tuple[str, ...]]:
        """For each leaf task the tasks from its entry down to it (parents stand above their children)."""
        line: dict[str, tuple[str, ...]] = {}
        for name, task in self.tasks.items():
            line[name] = (*(() if task.parent is None else line[task.parent]), name)
        return [line[name] for name in self.tasks if not self.children(name)]

    def is_path(self, variants: tuple[str, ...]) -> bool:
        """Whether the names are one variant per task from an entry to a leaf."""
        return any(
            len(line) == len(variants) and all(key in self.variants for key in zip(line, variants, strict=True))
            for line in self.lines()
        )


def place(path: Path, task: str, variant: str | None = None) -> str:
    part = f"{path}, task '{task}'"
    return part if variant is None else f"{part}, variant '{variant}'"


def read_pipeline_text(path: Path) -> PipelineText:
    """Read a pipeline file. Raises ConfigError: malformed YAML, unknown or missing key, wrong type, unknown name."""
    head = table(read_yaml(path), FileTable, str(path))
    tasks = {name: table(data, TaskTable, place(path, name)) for name, data in head.tasks.items()}
    variants = {
        (task, name): table(data, VariantTable, place(path, task, name))
        for task, owner in tasks.items()
        for name, data in owner.variants.items()
    }
    paths = [table(data, PathTable, f"{path}, path_accuracy") for data in head.path_accuracy]
    text = PipelineText(
        path=path,
        head=head,
        provenance=_choice(head.provenance, "provenance", get_args(Provenance), path),
        swap=_choice(head.swap, "swap", get_args(Swap), path),
        tasks=tasks,
        variants=variants,
        path_accuracy={tuple(row.path): row.accuracy for row in paths},
    )
    _check(text)
    return text


def _choice(value: str, key: str, allowed: tuple[C, ...], path: Path) -> C:
    for choice in allowed:
        if value == choice:
            return choice
    raise ConfigError(f"{path}, at '{key}': '{value}' is not one of {', '.join(allowed)}")


def _check(text: PipelineText) -> None:
    head = text.head
    require(re.fullmatch(r"[\w.-]+", head.name) is not None, str(text.path), f"the name '{head.name}' must be one word")
    require(head.hop_ms >= 0, str(text.path), f"hop_ms must be at least 0, not {head.hop_ms:g}")
    _check_named("workload", head.workload, str(text.path))
    both = head.profile is not None and head.padded is not None
    require(not both, str(text.path), "'padded' is measured: leave it out where a 'profile' is named")
    above: list[str] = []
    for name, task in text.tasks.items():
        _check_task(text, name, task, above)
        above.append(name)
    for task_name, variant in text.variants:
        _check_variant(text, task_name, variant)
    for leaf in head.leaf_weights:
        _known(leaf, text.tasks, str(text.path), "task in leaf_weights")
    for path, accuracy in text.path_accuracy.items():
        _check_path(text, path, accuracy)


def _check_task(text: PipelineText, name: str, task: TaskTable, above: list[str]) -> None:
    where = text.where(name)
    _known(task.parent, text.tasks, where, "parent")
    require(task.parent in (None, *above), where, f"its parent '{task.parent}' must stand above it")
    _check_named("adapter", task.adapter, where)


def _check_named(key: str, name: str | None, where: str) -> None:
    require(name is None or _NAMED.fullmatch(name) is not None, where, f"{key} '{name}' must have the form module:Class")


def _check_variant(text: PipelineText, task: str, name: str) -> None:
    variant, where = text.variants[task, name], text.where(task, name)
    adapted = text.tasks[task].adapter is not None
    require(adapted or variant.model is None, where, "a model needs the key 'adapter' in its task")
    require(not adapted or variant.model is not None, where, "the key 'model' is missing; add it")
    for child in variant.fanout:
        _known(child, text.children(task), where, "child task in fanout")


def _check_path(text: PipelineText, path: tuple[str, ...], accuracy: float) -> None:
    where = f"{text.path}, path_accuracy [{', '.join(path)}]"
    names = {variant for _, variant in text.variants}
    for name in path:
        _known(name, names, where, "variant")
    require(text.is_path(path), where, "must name one variant per task, from an entry task to a leaf")
    require(0 <= accuracy <= 1, where, f"accuracy must lie in [0, 1], not {accuracy:g}")


def _known(name: str | None, known: Iterable[str], where: str, what: str) -> None:
    names = list(known)
    if name is not None and name not in names:
        raise ConfigError(f"{where}: unknown {what} '{name}'{nearest(name, names)}")
