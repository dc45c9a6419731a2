"""The profile of a pipeline on this device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Literal

import onnxruntime as ort
from msgspec import Struct

from loki_rl.core.pipeline import Latency
from loki_rl.files.config import PipelineFile
from loki_rl.files.profile_file import Load, ProfileFile, Timing
from loki_rl.reading.models import font_files
from loki_rl.reading.packages import Progress
from loki_rl.reading.quality import Quality, encoded, measure_quality, reads_text, true_crops
from loki_rl.reading.scenes import Scene, render
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.hardware import device_name, resident_mb
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.engines.sessions import choose_device
from loki_rl.serving.profiling.dominance import Figures, dominated
from loki_rl.serving.profiling.labelled import Labelled, measure_labelled
from loki_rl.serving.profiling.timing import Effort, RunBatch, measure_latencies

# Requests come one by one, but an item has many children: batches form further down the tree.
ENTRY_SIZES = (1, 2, 4)
CHILD_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
# A GPU gains from batches and pads to powers of two.
GPU_SIZES = (1, 2, 4, 8, 16, 32)
LOADS = 3
SEED = 1
# Enough for a median within a few percent; the tails come from a profile as served.
QUICK = Effort(budget_s=0.1, least=5, most=40)
QUICK_ENTRY_SIZES, QUICK_CHILD_SIZES = (1, 2), (1, 2, 4, 8)
QUICK_SCENES = 12

Key = tuple[str, str]
Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}


class Request(Struct, frozen=True):
    """What to measure. device: as in sessions.choose_device. scenes: rendered pictures for accuracy and as payloads. sizes:
    task -> batch sizes, instead of the default ones. clock: cpu leaves out what other processes took; only for a busy host
    without a GPU. known: take accuracies and fan-outs from this profile, whatever its device: they do not depend on it.
    labelled: data for accuracies and fan-outs, and payloads of the entry tasks, instead of scenes."""

    device: str = "auto"
    scenes: int = 60
    seed: int = SEED
    effort: Effort = Effort()
    sizes: Mapping[str, tuple[int, ...]] = {}
    clock: Clock = "wall"
    known: ProfileFile | None = None
    labelled: Labelled | None = None


class Speed(Struct, frozen=True):
    """core_share: of a core that the measuring thread had; far below 1, other processes have slowed it down."""

    timings: list[Timing]
    loads: list[Load]
    core_share: float


def profile(file: PipelineFile, request: Request, progress: Progress) -> ProfileFile:
    """Measure every variant with a model: time per batch, load, memory; with labelled data, or for a pipeline that reads
    text, also accuracies, fan-outs and paths. Raises EngineError or ModelError."""
    if not file.models:
        raise EngineError(f"pipeline '{file.name}' names no models, so there is nothing to measure")
    if request.scenes < 1:
        raise EngineError(f"a profile needs at least 1 scene, not {request.scenes}")
    device = choose_device(request.device)
    padded = device.on_gpu
    sizes = batch_sizes(file, request, padded)
    engine = OnnxEngine(file.models, file.repository, device.name, sizes=sizes, padded=padded)
    shown = _scenes(file, request, progress)
    speed = _measure_variants(engine, sizes, _payloads(file, shown, request), request, progress)
    quality = _quality(file, engine, shown, request, progress)
    figures = Figures(speed.timings, quality.accuracies, quality.fanouts, quality.paths)
    return ProfileFile(
        device=device_name(device),
        provider=device.way,
        ort_version=ort.__version__,
        padded=padded,
        as_served=False,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command(file, request),
        provenance=_provenance(shown, request, None if padded else speed.core_share),
        variants=tuple(speed.timings),
        loads=tuple(speed.loads),
        accuracies=quality.accuracies,
        fanouts=quality.fanouts,
        paths=quality.paths,
        dominated=dominated(file.tree, figures),
    )


def quick_request(file: PipelineFile, known: ProfileFile, device: str) -> Request:
    """Times alone, in some seconds. On a CPU they are CPU times, so that a busy host does not spoil the few runs."""
    sizes = {task.name: QUICK_CHILD_SIZES if task.parent else QUICK_ENTRY_SIZES for task in file.tree}
    if not choose_device(device).on_gpu:
        return Request(device, QUICK_SCENES, effort=QUICK, sizes=sizes, clock="cpu", known=known)
    return Request(device, QUICK_SCENES, effort=QUICK, known=known)


def batch_sizes(file: PipelineFile, request: Request, padded: bool) -> dict[Key, tuple[int, ...]]:
    """(task, variant) -> the batch sizes to measure."""
    return {
        (task.name, variant): request.sizes.get(task.name)
        or (GPU_SIZES if padded else CHILD_SIZES if task.parent else ENTRY_SIZES)
        for task in file.tree
        for variant in task.variants
        if (task.name, variant) in file.models
    }


def _scenes(file: PipelineFile, request: Request, progress: Progress) -> list[Scene]:
    """Scenes if the pipeline reads text and nothing else is given, else none."""
    if request.labelled is not None or not reads_text(file):
        return []
    fonts = font_files(file.repository)
    shown: list[Scene] = []
    for number in range(request.scenes):
        shown.append(render(number, request.seed, fonts))
        progress("render scenes", len(shown) / request.scenes)
    return shown


def _quality(
    file: PipelineFile, engine: OnnxEngine, shown: Sequence[Scene], request: Request, progress: Progress
) -> Quality:
    if request.known is not None:
        return Quality(request.known.accuracies, request.known.fanouts, request.known.paths)
    if request.labelled is not None:
        return measure_labelled(file, engine, request.labelled, progress)
    return measure_quality(file, engine, shown, progress) if shown else Quality((), (), ())


def _payloads(file: PipelineFile, shown: Sequence[Scene], request: Request) -> dict[str, list[Array]]:
    """Task -> real payloads; nothing where only the adapter's sample is known."""
    if request.labelled is not None:
        return {task.name: list(request.labelled.payloads) for task in file.tree if task.parent is None}
    if not shown:
        return {}
    return {file.tree[0].name: [encoded(scene) for scene in shown], file.tree[1].name: true_crops(shown)}


def _measure_variants(
    engine: OnnxEngine,
    sizes: Mapping[Key, tuple[int, ...]],
    payloads: Mapping[str, list[Array]],
    request: Request,
    progress: Progress,
) -> Speed:
    timings: list[Timing] = []
    loads: list[Load] = []
    wall, cpu = time.perf_counter(), time.thread_time()
    for done, ((task, variant), of_variant) in enumerate(sizes.items()):
        progress("measure variants", done / len(sizes))
        before = resident_mb()
        load_s = _load_s(engine, task, variant)
        supply = payloads.get(task) or [engine.sample(task, variant)]
        rows = measure_latencies(_runner(engine, task, variant), supply, of_variant, request.effort, CLOCKS[request.clock])
        timings += [_timing(task, variant, size, row) for size, row in rows.items()]
        loads.append(Load(task, variant, round(load_s, 4), round(max(0.0, resident_mb() - before), 1)))
        engine.unload(task, variant)
    progress("measure variants", 1.0)
    return Speed(timings, loads, (time.thread_time() - cpu) / (time.perf_counter() - wall))


def _load_s(engine: OnnxEngine, task: str, variant: str) -> float:
    """Median of some loads; the variant is resident afterwards."""
    times: list[float] = []
    for _ in range(LOADS):
        engine.unload(task, variant)
        times.append(engine.load(task, variant))
    return median(times)


def _runner(engine: OnnxEngine, task: str, variant: str) -> RunBatch:
    return lambda batch: engine.run(task, variant, batch)


def _timing(task: str, variant: str, size: int, row: Latency) -> Timing:
    p50, p95, p99 = (round(1000 * seconds, 4) for seconds in (row.p50, row.p95, row.p99))
    return Timing(task, variant, size, p50, p95, p99)


def _command(file: PipelineFile, request: Request) -> str:
    if request.known is not None:
        return f"loki-rl profile {file.name} --quick --device {request.device}"
    shown = f"--scenes {request.scenes} --seed {request.seed}" if request.labelled is None else request.labelled.chosen
    chosen = f"--device {request.device} {shown}"
    return f"loki-rl profile {file.name} {chosen} --clock {request.clock} --budget-s {request.effort.budget_s:g}"


def _provenance(shown: Sequence[Scene], request: Request, core_share: float | None) -> str:
    kind = {"wall": "wall-clock", "cpu": "CPU"}[request.clock]
    runs = f"{request.effort.least} to {request.effort.most} runs a batch after warm-up"
    parts = [f"{kind} time of preparing, running and finishing a batch on one thread; {runs}"]
    if core_share is not None:
        parts.append(f"the thread had {min(1.0, core_share):.0%} of a core")
    if request.known is not None:
        parts.append(f"accuracies and fan-outs as measured on {request.known.device} at {request.known.created}")
    elif request.labelled is not None:
        parts.append(f"accuracy: mean score of every path on {len(request.labelled.names)} labelled files")
    elif shown:
        lines = sum(len(scene.lines) for scene in shown)
        parts.append(f"accuracy: share of {lines} lines in {len(shown)} rendered scenes, found at IoU 0.5, read exactly")
    return "; ".join(parts)
