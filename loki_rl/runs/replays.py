"""A replay of a trace against a plane that somebody else started. Owns its options and what remains of it as a run; decides
nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.runs.run import PAYLOADS, RunOptions, RunResult
from loki_rl.serving.load.replay import replay
from loki_rl.serving.profiling.workload import make_workload
from loki_rl.traces.arrivals import duration_s, made_up, requests
from loki_rl.traces.trace import TraceOptions, load_trace


class PayloadsError(ValueError):
    """There is nothing to send; the message says why and what to do."""


class ReplayOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything `replay` may be told. payloads: folder of files to send, in order of their names."""

    url: str
    pipeline: str
    trace: str
    payloads: str | None = None
    slo_ms: float | None = None
    mean_rps: float | None = None
    rate_scale: float | None = None
    compress: float = 1.0
    from_s: float = 0.0
    to_s: float | None = None
    seed: int = 0


def replay_trace(options: ReplayOptions) -> RunResult:
    """Replay a trace against a running server. Raises TraceError, ReplayError, ClientError or PayloadsError."""
    chosen = TraceOptions(
        from_s=options.from_s,
        to_s=options.to_s,
        compress=options.compress,
        mean_rps=options.mean_rps,
        rate_scale=options.rate_scale,
    )
    trace = load_trace(options.trace)
    times, wishes = requests(trace, chosen, options.seed)
    file = load_pipeline(options.pipeline, slo_ms=options.slo_ms)
    pipeline = file.pipeline
    seen = replay(options.url, pipeline.name, times, _payloads(options, file), pipeline.slo_s, wishes=wishes)
    servers = pipeline.servers if seen.ledger is None else seen.ledger.servers
    run = RunOptions(
        pipeline=options.pipeline,
        trace=options.trace,
        policy="served",
        driver="onnx" if file.models else "emulated",
        seed=options.seed,
        servers=servers,
        slo_ms=options.slo_ms,
        mean_rps=options.mean_rps,
        rate_scale=options.rate_scale,
        compress=options.compress,
        from_s=options.from_s,
        to_s=options.to_s,
    )
    return RunResult(
        options=run,
        trace=trace.name,
        summary=seen.figures,
        tally=seen.tally,
        servers=servers,
        best_accuracy=pipeline.best_accuracy,
        # Of the models of another server the pipeline file knows nothing.
        provenance="" if seen.figures.accuracy is None else file.provenance,
        duration_s=duration_s(trace, chosen),
        wall_s=seen.wall_s,
        synthetic=made_up(trace, chosen),
    )


def _payloads(options: ReplayOptions, file: PipelineFile) -> list[NDArray[Any]] | None:
    if options.payloads is not None:
        folder = Path(options.payloads)
        files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
        if not files:
            raise PayloadsError(f"--payloads {folder} is not a folder with files in it")
        return [np.frombuffer(path.read_bytes(), np.uint8) for path in files]
    workload = make_workload(file, PAYLOADS, options.seed)
    return None if workload is None else workload.payloads(file.tree[0])
