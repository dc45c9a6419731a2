"""What a pipeline is measured and played with: payloads, and how good its answers to them are. An application brings a
workload of its own, as a class that its pipeline file names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from msgspec import Struct

from loki_rl.files.config import PipelineFile, TaskSpec
from loki_rl.files.profile_file import Fanout, PathAccuracy, StageAccuracy
from loki_rl.serving.engines.adapter import Array, Produced, named
from loki_rl.serving.engines.device import dealt
from loki_rl.serving.engines.engine import Engine, EngineError
from loki_rl.serving.engines.onnx_engine import OnnxEngine

# What is being done, and how much of it is done, 0..1.
Progress = Callable[[str, float], None]


class Quality(Struct, frozen=True):
    """What a profile says of answers; times are not among it."""

    accuracies: tuple[StageAccuracy, ...] = ()
    fanouts: tuple[Fanout, ...] = ()
    paths: tuple[PathAccuracy, ...] = ()


class Workload(Protocol):
    """The class in a pipeline file is called with (file, count, seed, progress): its file, how many payloads of an entry
    task there should be, a seed (equal seeds give equal payloads), and where to say how far it is. It raises EngineError,
    or ModelError where it needs files that were not fetched.

    It may have a static method `fetch(repository, progress) -> bool`: get the models of the pipeline, for 'models fetch';
    True if anything was missing.
    """

    @property
    def about(self) -> str:
        """What its accuracies are, for the provenance of a profile."""

    def payloads(self, task: TaskSpec) -> list[Array]:
        """Real payloads of a task; none where only the adapter's sample is known."""

    def quality(self, file: PipelineFile, engine: Engine, progress: Progress) -> Quality:
        """Accuracy of every variant and path, 0..1, and fan-outs, as the engine answers. Raises EngineError."""


def quiet(_what: str, _share: float) -> None:
    """A progress that nobody sees."""


def workload_class(file: PipelineFile) -> Callable[[PipelineFile, int, int, Progress], Workload] | None:
    """What the pipeline file names, None if it names none. Raises EngineError if it cannot be loaded."""
    if file.workload is None:
        return None
    try:
        return cast("Callable[[PipelineFile, int, int, Progress], Workload]", named(file.workload))
    except ImportError as error:
        raise EngineError(f"{file.path}: workload '{file.workload}' cannot be loaded: {error}") from error


def make_workload(file: PipelineFile, count: int, seed: int, progress: Progress = quiet) -> Workload | None:
    """The workload of a pipeline, None if it has none. Raises EngineError or ModelError."""
    if count < 1:
        raise EngineError(f"a workload needs at least 1 payload, not {count}")
    made = workload_class(file)
    return None if made is None else made(file, count, seed, progress)


def entry_payloads(file: PipelineFile, count: int, seed: int, device: str) -> list[Array]:
    """Payloads of the entry task: of the pipeline's workload, else its adapter's sample. Raises EngineError, ModelError."""
    own, entry = make_workload(file, count, seed), file.tree[0]
    if own is not None:
        return own.payloads(entry)
    engine = OnnxEngine(file.models, file.repository, dealt(device, 0))
    engine.load(entry.name, entry.variants[0])
    return [engine.sample(entry.name, entry.variants[0])]


def sound(result: Produced, name: str) -> Produced:
    """A result that is one. Raises EngineError for an item that was refused; name: where it came from."""
    if result.error is not None:
        raise EngineError(f"'{name}' was refused: {result.error}")
    return result
