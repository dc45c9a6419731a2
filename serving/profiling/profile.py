"""The profile of a pipeline on this device: what is measured, in which order, and the file that comes out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median

import onnxruntime as ort
from msgspec import Struct

from loki_rl.files.config import PipelineFile
from loki_rl.files.profile_file import Load, ProfileFile, Timing
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.core_time import waits_are_told
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.hardware import HostLoad, device_name, resident_mb
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.engines.sessions import choose_device
from loki_rl.serving.profiling.labelled import Labelled
from loki_rl.serving.profiling.timing import Effort, Measurement, RunBatch, measure_latencies
from loki_rl.serving.profiling.workload import Progress, Quality, Workload, make_workload

# Requests come one by one, but an item has many children: batches form further down the tree.
ENTRY_SIZES = (1, 2, 4)
CHILD_SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
# A GPU gains from batches and pads to powers of two.
GPU_SIZES = (1, 2, 4, 8, 16, 32)
LOADS = 3
# Runs of a variant's sample item, for so long [s] at most (one at least).
SAMPLE_RUNS, SAMPLE_S = 20, 0.2
SEED = 1
# Enough for a median within a few percent; the tails come from a profile as served.
QUICK = Effort(budget_s=0.12, least=6, most=48, rounds=3)
QUICK_ENTRY_SIZES, QUICK_CHILD_SIZES = (1, 2), (1, 2, 4, 8)
QUICK_SAMPLES = 12

Key = tuple[str, str]


class Request(Struct, frozen=True):
    """What to measure. device: as in sessions.choose_device. samples: how many payloads of an entry task the
    pipeline's workload makes. sizes: task -> batch sizes, instead of the default ones. known: take accuracies and fan-outs
    from this profile, whatever its device: they do not depend on it. labelled: instead of the pipeline's own workload."""

    device: str = "auto"
    samples: int = 60
    seed: int = SEED
    effort: Effort = Effort()
    sizes: Mapping[str, tuple[int, ...]] = {}
    known: ProfileFile | None = None
    labelled: Labelled | None = None


class Speed(Struct, frozen=True):
    """neighbours, steal: shares of all cores that other programs and the hypervisor took meanwhile."""

    timings: list[Timing]
    loads: list[Load]
    neighbours: float
    steal: float


def profile(file: PipelineFile, request: Request, progress: Progress) -> ProfileFile:
    """Measure every variant with a model: time per batch, load, memory; with labelled data or a workload of the pipeline's
    own also accuracies, fan-outs and paths. Raises EngineError or ModelError."""
    if not file.models:
        raise EngineError(f"pipeline '{file.name}' names no models, so there is nothing to measure")
    device = choose_device(request.device)
    padded = device.on_gpu
    sizes = batch_sizes(file, request, padded)
    engine = OnnxEngine(file.models, file.repository, device.name, sizes=sizes, padded=padded, timed=True)
    workload = request.labelled or make_workload(file, request.samples, request.seed, progress)
    payloads = {} if workload is None else {task.name: workload.payloads(task) for task in file.tree}
    speed = _measure_variants(engine, sizes, payloads, request, progress)
    quality = _quality(file, engine, workload, request, progress)
    return ProfileFile(
        device=device_name(device),
        provider=device.way,
        ort_version=ort.__version__,
        padded=padded,
        as_served=False,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command(file, request),
        provenance=_provenance(workload, request, padded),
        variants=tuple(speed.timings),
        loads=tuple(speed.loads),
        accuracies=quality.accuracies,
        fanouts=quality.fanouts,
        paths=quality.paths,
        neighbours=round(speed.neighbours, 3),
        steal=round(speed.steal, 3),
    )


def quick_request(file: PipelineFile, known: ProfileFile, device: str) -> Request:
    """Times alone, in some seconds."""
    sizes = {task.name: QUICK_CHILD_SIZES if task.parent else QUICK_ENTRY_SIZES for task in file.tree}
    if not choose_device(device).on_gpu:
        return Request(device, QUICK_SAMPLES, effort=QUICK, sizes=sizes, known=known)
    return Request(device, QUICK_SAMPLES, effort=QUICK, known=known)


def batch_sizes(file: PipelineFile, request: Request, padded: bool) -> dict[Key, tuple[int, ...]]:
    """(task, variant) -> the batch sizes to measure."""
    return {
        (task.name, variant): request.sizes.get(task.name)
        or (GPU_SIZES if padded else CHILD_SIZES if task.parent else ENTRY_SIZES)
        for task in file.tree
        for variant in task.variants
        if (task.name, variant) in file.models
    }


def _quality(
    file: PipelineFile, engine: OnnxEngine, workload: Workload | None, request: Request, progress: Progress
) -> Quality:
    if request.known is not None:
        return Quality(request.known.accuracies, request.known.fanouts, request.known.paths)
    return Quality() if workload is None else workload.quality(file, engine, progress)


def _measure_variants(
    engine: OnnxEngine,
    sizes: Mapping[Key, tuple[int, ...]],
    payloads: Mapping[str, list[Array]],
    request: Request,
    progress: Progress,
) -> Speed:
    timings: list[Timing] = []
    loads: list[Load] = []
    host, clock = HostLoad(), engine.now
    for done, ((task, variant), of_variant) in enumerate(sizes.items()):
        progress("measure variants", done / len(sizes))
        before = resident_mb()
        load_s = _load_s(engine, task, variant)
        supply = payloads.get(task) or [engine.sample(task, variant)]
        rows = measure_latencies(_runner(engine, task, variant), supply, of_variant, request.effort, clock)
        timings += [_timing(task, variant, size, row) for size, row in rows.items()]
        memory_mb = max(0.0, resident_mb() - before)
        sample_ms = max(0.0001, 1000 * median(engine.look(task, variant, SAMPLE_RUNS, SAMPLE_S)))
        loads.append(Load(task, variant, round(load_s, 4), round(memory_mb, 1), round(sample_ms, 4)))
        engine.unload(task, variant)
    progress("measure variants", 1.0)
    return Speed(timings, loads, host.share(), host.steal())


def _load_s(engine: OnnxEngine, task: str, variant: str) -> float:
    """Median of some loads; the variant is resident afterwards."""
    times: list[float] = []
    for _ in range(LOADS):
        engine.unload(task, variant)
        times.append(engine.load(task, variant))
    return median(times)


def _runner(engine: OnnxEngine, task: str, variant: str) -> RunBatch:
    return lambda batch: engine.run(task, variant, batch)


def _timing(task: str, variant: str, size: int, row: Measurement) -> Timing:
    p50, p95, p99 = (round(1000 * seconds, 4) for seconds in (row.latency.p50, row.latency.p95, row.latency.p99))
    return Timing(task, variant, size, p50, p95, p99, round(row.error, 4), round(row.waited, 4))


def _command(file: PipelineFile, request: Request) -> str:
    if request.known is not None:
        return f"loki-rl profile {file.argument} --quick --device {request.device}"
    shown = f"--samples {request.samples} --seed {request.seed}" if request.labelled is None else request.labelled.chosen
    chosen = f"--device {request.device} {shown}"
    return f"loki-rl profile {file.argument} {chosen} --budget-s {request.effort.budget_s:g}"


def _provenance(workload: Workload | None, request: Request, on_gpu: bool) -> str:
    effort = request.effort
    if waits_are_told():
        kind = "wall-clock time without waiting for a core"
    elif on_gpu:
        kind = "wall-clock time (this kernel does not tell what threads wait for a core)"
    else:
        kind = "CPU time (this kernel does not tell what threads wait for a core)"
    parts = [
        f"{kind} of preparing, running and finishing a batch on one thread",
        f"{effort.least} to {effort.most} runs a batch after warm-up, in {effort.rounds} rounds",
    ]
    if request.known is not None:
        parts.append(f"accuracies and fan-outs as measured on {request.known.device} at {request.known.created}")
    elif workload is not None:
        parts.append(f"accuracy: {workload.about}")
    return "; ".join(parts)
