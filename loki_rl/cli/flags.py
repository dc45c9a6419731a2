"""Flags: their names, types and help, once for all commands, and how they become checked options. Owns what a user may type;
runs nothing."""

from __future__ import annotations

from math import inf
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import msgspec
import typer
from msgspec.structs import replace

if TYPE_CHECKING:
    from loki_rl.control.formulation.request import Queueing
    from loki_rl.runs.run import RunOptions

T = TypeVar("T")

POLICY_NAMES = "static, hardware, proteus, loki, exact, forecast, ppo, clairvoyant"

PipelineArg = Annotated[str, typer.Argument(help="Pipeline file, or the name of one in pipelines/.")]
TraceOpt = Annotated[str, typer.Option(help="Trace file, or the name of one that ships (flash_crowd, diurnal, mmpp).")]
ServersOpt = Annotated[int | None, typer.Option(help="Servers in the cluster (default: as in the pipeline file).")]
PoolOpt = Annotated[
    Path | None,
    typer.Option(help="Pool file of server types, or the name of one in pipelines/pools/, instead of a number of servers."),
]
SloOpt = Annotated[float | None, typer.Option(help="End-to-end deadline [ms] (default: as in the pipeline file).")]
FloorOpt = Annotated[float, typer.Option(help="Least mean accuracy, 0..1.")]
QueueingOpt = Annotated[str | None, typer.Option(help="Latency model: tail or half-slo (default: the policy's own).")]
SolverOpt = Annotated[
    str, typer.Option(help="Who plans: the own search, or pulp: the model written down in PuLP, solved by HiGHS.")
]
HeadroomOpt = Annotated[float | None, typer.Option(help="Share of demand added before planning.")]
TracesOpt = Annotated[
    list[str],
    typer.Option(help="Trace file, or the name of one that ships (flash_crowd, diurnal, mmpp); may be repeated."),
]
PolicyOpt = Annotated[str, typer.Option(help=f"One of {POLICY_NAMES}.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SeedOpt = Annotated[int, typer.Option(help="Seed of arrivals, fan-outs and service times.")]
IntervalOpt = Annotated[float, typer.Option(help="Time between plans [s].")]
DropOpt = Annotated[str, typer.Option(help="Dropping: none, last-task, per-task or reroute.")]
RoutingOpt = Annotated[
    str, typer.Option(help="Workers pull from their task's queue (pull), or a table deals to each worker's own (table).")
]
LoadOpt = Annotated[float | None, typer.Option(help="Time to load any model [s] (default: as in the pipeline file).")]
MeanOpt = Annotated[float | None, typer.Option(help="Scale the trace to this mean rate [1/s].")]
ScaleOpt = Annotated[float | None, typer.Option(help="Copies made of each request of the trace.")]
CompressOpt = Annotated[float, typer.Option(help="Play the trace this many times faster.")]
FromOpt = Annotated[float, typer.Option(help="Start of the window in the trace [s].")]
ToOpt = Annotated[float | None, typer.Option(help="End of the window in the trace [s].")]
DeviceOpt = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:0,1, cuda+graphs:0 (CUDA graphs), tensorrt:0 or tensorrt+fp16:0.")
]

FaultsOpt = Annotated[
    Path | None, typer.Option(help="YAML file of what goes wrong in the twin: crashes, slow servers ... (docs/faults.md)")
]
ModelOpt = Annotated[Path | None, typer.Option(help="Trained agent (agent.npz) for the policy ppo.")]
ProfileOpt = Annotated[Path | None, typer.Option(help="Profile to use instead of the one the pipeline file names.")]

# What these options may be at least. An interval far below a solve would never let the controller rest.
LEAST = {"servers": 1, "workers": 1, "interval_s": 0.1, "load_s": 0.0}


class UsageError(ValueError):
    """Flags that do not fit together; the message says which and what to do."""


def writable(folder: Path | None) -> Path | None:
    """The folder, made if need be: it is better to know before a run than after it."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(f"nothing can be written to {folder}: {error.strerror}; name another folder") from error
    return folder


LogdirOpt = Annotated[
    Path | None, typer.Option(help="Write a run folder for TensorBoard below this folder.", callback=writable)
]


def run_options(pipeline: str | None, faults: Path | None = None, **flags: Any) -> RunOptions:
    """Checked options of a run, with the content of the file of faults. Raises UsageError or ConfigError."""
    from loki_rl.env.faults import load_faults
    from loki_rl.runs.run import RunOptions

    if pipeline is None:
        raise UsageError("name a pipeline (or a run to repeat with --config)")
    options = convert({"pipeline": pipeline, **flags}, RunOptions)
    return options if faults is None else replace(options, faults=load_faults(faults))


def convert(flags: dict[str, Any], kind: type[T]) -> T:
    """Flags as a struct; what is not allowed is named as the user typed it."""
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    from loki_rl.control.formulation.request import QUEUEINGS, SOLVERS
    from loki_rl.core.options import DROPS, ROUTINGS
    from loki_rl.serving.observe.logs import LEVELS
    from loki_rl.serving.plane import ENGINES

    choices = (
        ("drop", DROPS), ("routing", ROUTINGS), ("queueing", QUEUEINGS), ("solver", SOLVERS), ("engine", ENGINES),
        ("log_level", LEVELS),
    )  # fmt: skip
    for name, allowed in choices:
        one_of(f"--{name.replace('_', '-')}", flags.get(name), allowed)
    try:
        return checked(msgspec.convert(flags, kind))
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from error


def checked(options: T) -> T:
    for name, least in LEAST.items():
        value = getattr(options, name, None)
        if value is not None and not least <= value < inf:
            raise UsageError(f"{name} must be finite and at least {least:g}, not {value:g}")
    return options


def one_of(flag: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise UsageError(f"{flag} must be one of {', '.join(allowed)}, not '{value}'")
    return value


def split_names(flag: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{flag} names nothing; separate several by commas")
    return names


def queueing_of(name: str | None) -> Queueing:
    from loki_rl.control.formulation.request import QUEUEINGS

    return cast("Queueing", one_of("--queueing", name, QUEUEINGS) or "tail")


def need_models(pipeline: str, engine: str | None) -> None:
    """Models that are not there would only be missed by workers, after a minute of waiting for them."""
    from loki_rl.files.config import load_pipeline
    from loki_rl.serving.engines.adapter import adapter_class
    from loki_rl.serving.engines.files import ModelError
    from loki_rl.serving.engines.model_repository import find_model

    file = load_pipeline(pipeline, need_profile=False)
    if engine == "onnx" and not file.models:
        raise UsageError(f"pipeline '{file.name}' names no models, so nothing but emulated workers can serve it")
    for spec in file.models.values():
        adapter_class(spec.adapter)
        try:
            if engine != "emulated":
                find_model(file.repository, spec.model)
        except ModelError as error:
            raise UsageError(f"{error}; run 'loki-rl models fetch reading', or correct 'repository'") from None
