"""Commands about what a run starts from: traces, models, profiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from loki_rl.cli import terminal
from loki_rl.cli.flags import (
    CompressOpt,
    DeviceOpt,
    JsonOpt,
    MeanOpt,
    PipelineArg,
    ScaleOpt,
    SeedOpt,
    ToOpt,
    UsageError,
    need_models,
    one_of,
)

if TYPE_CHECKING:
    from loki_rl.traces.trace import Trace, TraceOptions


def trace_stats(
    file: Annotated[str, typer.Argument(help="Trace file, or the name of one that ships.")],
    from_s: Annotated[float | None, typer.Option(help="Start of the window in the trace [s].")] = None,
    to_s: ToOpt = None,
    compress: CompressOpt = 1.0,
    mean_rps: MeanOpt = None,
    rate_scale: ScaleOpt = None,
    seed: SeedOpt = 0,
    as_json: JsonOpt = False,
) -> None:
    """Mean, peak and burstiness of a trace, and a small plot."""
    from loki_rl.traces.trace import TraceOptions, load_trace

    options = TraceOptions(from_s=from_s, to_s=to_s, compress=compress, mean_rps=mean_rps, rate_scale=rate_scale)
    _say_trace(load_trace(file), options, seed, {}, as_json)


def trace_generate(
    kind: Annotated[
        str, typer.Argument(help="flash_crowd, diurnal, ramp, bursts, steps, mmpp or bursty (as for agents).")
    ],
    out: Annotated[Path, typer.Option(help="File to write, .csv or .csv.gz.")],
    seconds: Annotated[int, typer.Option(help="Length [s].")] = 600,
    base_rps: Annotated[float, typer.Option(help="Lowest rate [1/s]; of bursty the mean.")] = 10.0,
    peak: Annotated[float, typer.Option(help="Highest rate over the lowest.")] = 4.7,
    period_s: Annotated[float | None, typer.Option(help="Period of what repeats [s] (default: as the kind has it).")] = None,
    idc: Annotated[float, typer.Option(help="Variance over mean of the counts given the rate; 1 is Poisson.")] = 1.0,
    seed: SeedOpt = 0,
    as_json: JsonOpt = False,
) -> None:
    """Make a trace: the same file for the same arguments."""
    from loki_rl.traces.generate import generate
    from loki_rl.traces.trace import TraceOptions, save_trace

    made = generate(kind, seconds, base_rps, seed, peak=peak, idc=idc, period_s=period_s)
    save_trace(made, out)
    _say_trace(made, TraceOptions(), seed, {"file": str(out)}, as_json)


def _say_trace(trace: Trace, options: TraceOptions, seed: int, head: dict[str, Any], as_json: bool) -> None:
    from loki_rl.traces.arrivals import arrivals
    from loki_rl.traces.sketch import sketch
    from loki_rl.traces.stats import trace_stats

    stats = trace_stats(trace, options, seed)
    row = {**head, **msgspec.to_builtins(stats)}

    def show() -> None:
        for text in sketch(arrivals(trace, options, seed), stats.length_s, stats.bin_s):
            terminal.line(text)
        windows = {f"idc in {one.window_s:g} s": one.idc for one in stats.idc_windows}
        pairs = {name: value for name, value in row.items() if name != "idc_windows" and value != ""}
        terminal.pairs(pairs | windows)
        if trace.synthetic:
            terminal.line(trace.synthetic)

    terminal.say(row, as_json, show)


def models_fetch(
    pipeline: PipelineArg,
    repository: Annotated[
        Path | None, typer.Option(help="Where to put them (default: $LOKI_MODELS, else the user's data folder).")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Fetch the models of a pipeline into a model repository; a second call needs no network."""
    from loki_rl.files.config import load_pipeline
    from loki_rl.serving.profiling.workload import workload_class

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
    pipeline: PipelineArg,
    device: DeviceOpt = "auto",
    samples: Annotated[int, typer.Option(help="Payloads that the pipeline's own workload makes, with known answers.")] = 60,
    seed: SeedOpt = 1,
    budget_s: Annotated[float, typer.Option(help="Time per variant and batch size [s].")] = 0.3,
    clock: Annotated[str, typer.Option(help="wall, or cpu on a busy host without a GPU.")] = "wall",
    data: Annotated[
        Path | None, typer.Option(help="Folder of files to measure accuracy and fan-out on, with --scorer.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="module:function that gives 0..1 for (leaf task, name of the file, outputs).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Times alone; accuracies of the known profile.")] = False,
    as_served: Annotated[bool, typer.Option(help="Rescale by what workers need while the whole plane runs.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write it (default: as the file names; for a shipped one the user's data folder)."),
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Measure latency, load time, accuracy and fan-out of every variant on this device."""
    from loki_rl.files.config import load_pipeline
    from loki_rl.serving.profiling.labelled import load_labelled
    from loki_rl.serving.profiling.profile import Request, quick_request
    from loki_rl.serving.profiling.profile import profile as measure
    from loki_rl.serving.profiling.timing import Effort

    one_of("--clock", clock, ("wall", "cpu"))
    need_models(pipeline, "onnx")
    loaded = load_pipeline(pipeline, need_profile=quick)
    if quick and loaded.measured is None:
        raise UsageError(f"pipeline '{loaded.name}' names no profile file whose accuracies --quick could take")
    if (data is None) != (scorer is None):
        raise UsageError("--data and --scorer go together: files, and what says how well each was answered")
    labelled = None if data is None or scorer is None else load_labelled(data, scorer)
    effort = Effort(budget_s=budget_s)
    request = (
        quick_request(loaded, loaded.measured, device)
        if loaded.measured is not None
        else Request(device, samples, seed, effort, clock=clock, labelled=labelled)  # type: ignore[arg-type]
    )
    with terminal.progress_bars() as progress:
        measured = measure(loaded, request, progress)
        target = out or loaded.own_profile
        if target is None:
            raise UsageError(f"pipeline '{loaded.name}' names no profile file; say where with --out")
        measured.save(target)
        if as_served:
            from loki_rl.serving.profiling.as_served import rescale

            measured = rescale(loaded.path, target, device, progress)
            measured.save(target)
    row = {"file": str(target), **msgspec.to_builtins(measured)}
    terminal.say(row, as_json, lambda: terminal.profile(row))
