"""A trial of a pipeline's plane with faults: from options to what is tried."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from loki_rl.control.allocator.allocate import capacity
from loki_rl.files.config import PipelineFile
from loki_rl.options import Count, Help, Positive
from loki_rl.runs.live import LayoutName, Served, ServeOptions, prepared
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import PAYLOADS, on_plane
from loki_rl.serving.chaos.schedule import KINDS, Kind, TrialError
from loki_rl.serving.chaos.trial import Ordeal, Verdict, hold
from loki_rl.serving.plane import EngineKind
from loki_rl.serving.profiling.workload import entry_payloads
from loki_rl.serving.transport.wire import Array

FAULTS = 20
# Of the most that the plane could serve: the loss of some workers leaves enough.
SHARE = 0.3
# What is sent to emulated workers where a payload has to be told from others.
SAMPLE = np.frombuffer(b"a trial", np.uint8)


class TrialOptions(Struct, frozen=True, kw_only=True):
    """What only a trial is told."""

    faults: Annotated[Count | None, Help(f"Faults in all (default: {FAULTS}).")] = None
    minutes: Annotated[Positive | None, Help("Time over which faults come, instead of --faults [min].")] = None
    every_s: Annotated[Annotated[float, Meta(ge=0.5)], Help("Time from one fault to the next [s].")] = 3.0
    kinds: Annotated[str, Help(f"Kinds of faults, separated by commas (default: {','.join(KINDS)}).")] = ""
    rps: Annotated[Positive | None, Help(f"Requests per second (default: {SHARE:g} of what the plane could serve).")] = None
    engine: Annotated[EngineKind | None, Help("onnx, or emulated (default: onnx if the file names models).")] = None
    layout: LayoutName = "spread"


def try_plane(
    run: RunOptions, options: TrialOptions, kinds: tuple[Kind, ...], progress: Callable[[int, int], None]
) -> Verdict:
    """Hold the trial. Raises LaunchError, ConfigError, RequestError, LiveError, EngineError or TrialError with one clear
    sentence."""
    served = prepared(run, ServeOptions(engine=options.engine, any_profile=True))
    payloads = None if served.engine == "emulated" else _payloads(served)
    ordeal = Ordeal(
        served.cluster,
        served.engine,
        rps=options.rps or SHARE * capacity(served.cluster.pipeline, served.cluster.servers).capacity_rps,
        count=count_of(options),
        every_s=options.every_s,
        kinds=kinds,
        seed=run.seed,
        sample=SAMPLE if payloads is None else payloads[0],
        payloads=payloads,
        pipeline_file=str(served.file.path),
        repository=None if payloads is None else served.file.repository,
        device=served.run.device,
        policy=run.policy,
        policy_options=on_plane(served.policy),
        layout=options.layout,
    )
    return hold(ordeal, progress)


def count_of(options: TrialOptions) -> int:
    """How many faults there are. Raises TrialError."""
    if options.minutes is None:
        return options.faults or FAULTS
    if options.faults is not None:
        raise TrialError("--faults and --minutes both say how long the trial lasts; leave one of them out")
    return max(1, floor(60 * options.minutes / options.every_s))


def _payloads(served: Served) -> list[Array]:
    file: PipelineFile = served.file
    return entry_payloads(file, PAYLOADS, served.run.seed, served.run.device)
