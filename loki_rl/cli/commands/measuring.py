"""Commands about models: fetch them, measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from loki_rl.cli import terminal
from loki_rl.cli.flags import Fields, Json, UsageError
from loki_rl.cli.provenance import tell_profile
from loki_rl.cli.results import need_models
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.user_folders import writable
from loki_rl.options import Count, Help, PipelineName, Positive, Seed
from loki_rl.runs.options import RunOptions
from loki_rl.serving.engines.sessions import choose_device
from loki_rl.serving.profiling.as_served import doubt, rescale
from loki_rl.serving.profiling.labelled import load_labelled
from loki_rl.serving.profiling.profile import Request, quick_request
from loki_rl.serving.profiling.profile import profile as measure
from loki_rl.serving.profiling.timing import Effort
from loki_rl.serving.profiling.workload import workload_class


def models_fetch(
    pipeline: PipelineName,
    repository: Annotated[
        Path | None, Help("Where to put them (default: $LOKI_MODELS, else the user's data folder).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch the models of a pipeline into a model repository; a second call needs no network."""
    file = load_pipeline(pipeline, need_profile=False)
    fetch = getattr(workload_class(file), "fetch", None)
    if fetch is None:
        raise UsageError(f"no models come with pipeline '{file.name}'; 'reading' has some")
    folder = repository or file.repository
    with terminal.progress_bars() as progress:
        fetched = fetch(folder, progress)
    row = {"repository": str(folder), "models": sorted({one.model for one in file.models.values()}), "fetched": fetched}
    terminal.say(row, as_json, lambda: terminal.pairs(row))


def profile(
    options: Annotated[RunOptions, Fields(only=("pipeline", "device"))],
    samples: Annotated[Count, Help("Payloads that the pipeline's own workload makes, with known answers.")] = 60,
    seed: Seed = 1,
    budget_s: Annotated[Positive, Help("Time per variant and batch size [s].")] = 0.3,
    data: Annotated[
        Path | None, Help("Folder of files to measure accuracy and fan-out on, with --scorer; .npy holds an array.")
    ] = None,
    scorer: Annotated[
        str | None, Help("module:function that gives 0..1 for (leaf task, name of the file, outputs).")
    ] = None,
    quick: Annotated[bool, Help("Times alone; accuracies of the known profile.")] = False,
    as_served: Annotated[bool, Help("Rescale by what workers need while the whole plane runs.")] = False,
    out: Annotated[
        Path | None,
        Help("Where to write it (default: as the file names; for a shipped one the user's data folder)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure latency, load time, accuracy and fan-out of every variant on this device."""
    need_models(options, "onnx")
    choose_device(options.device)
    file, device = load_pipeline(options.pipeline, need_profile=quick), options.device
    if quick and file.measured is None:
        raise UsageError(f"pipeline '{file.name}' names no profile file whose accuracies --quick could take")
    if (data is None) != (scorer is None):
        raise UsageError("--data and --scorer go together: files, and what says how well each was answered")
    labelled = None if data is None or scorer is None else load_labelled(data, scorer)
    request = (
        quick_request(file, file.measured, device)
        if file.measured is not None
        else Request(device, samples, seed, Effort(budget_s=budget_s), labelled=labelled)
    )
    target = _target(file, out)
    with terminal.progress_bars() as progress:
        measured = measure(file, request, progress)
        measured.save(target)
        if as_served:
            measured = rescale(file.path, target, device, progress)
            measured.save(target)
    if unsure := doubt(measured):
        terminal.note(unsure)
    tell_profile(load_pipeline(options.pipeline, need_profile=False))
    row = {"file": str(target), **msgspec.to_builtins(measured)}
    terminal.say(row, as_json, lambda: terminal.profile(row))


def _target(file: PipelineFile, out: Path | None) -> Path:
    """Where the profile is written: better to know before a measurement than after it. Raises UsageError."""
    target = out or file.own_profile
    if target is None:
        raise UsageError(f"pipeline '{file.name}' names no profile file; say where with --out")
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file in it with --out")
    writable(target.parent)
    if out is None and target.exists():
        terminal.note(f"{target} will be replaced; keep it by naming another file with --out")
    return target
