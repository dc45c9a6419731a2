"""A replay of a trace against a plane that somebody else started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.errors import UserError
from loki_rl.files.config import PipelineFile
from loki_rl.progress import Progress, unseen
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import PAYLOADS
from loki_rl.serving.load.replay import replay
from loki_rl.serving.profiling.workload import make_workload
from loki_rl.serving.security.credentials import Credentials
from loki_rl.traces.arrivals import duration_s, made_up, requests
from loki_rl.traces.trace import load_trace


class PayloadsError(UserError):
    """There is nothing to send; the message says why and what to do."""


def replay_trace(
    url: str,
    run: RunOptions,
    payloads: Path | None = None,
    credentials: Credentials | None = None,
    progress: Progress = unseen,
) -> RunResult:
    """Replay a trace against a running server. run: its trace, pipeline, SLO and seed; payloads: folder of files to send, in
    order of their names; credentials: what is shown to the server. Raises AddressError, TraceError, ReplayError,
    ClientError, ApiKeyError, TlsError, CurveKeyError or PayloadsError."""
    trace = load_trace(run.trace)
    times, wishes = requests(trace, run, run.seed)
    file = run.file
    pipeline = file.pipeline
    sent = _payloads(payloads, run, file)
    seen = replay(
        url, pipeline.name, times, sent, pipeline.slo_s, wishes=wishes, credentials=credentials, progress=progress
    )
    servers = pipeline.servers if seen.ledger is None else seen.ledger.servers
    return RunResult(
        options=replace(run, policy="served", driver="onnx" if file.models else "emulated", servers=servers),
        trace=trace.name,
        summary=seen.figures,
        tally=seen.tally,
        servers=servers,
        best_accuracy=pipeline.best_accuracy,
        # Of the models of another server the pipeline file knows nothing.
        provenance="" if seen.figures.accuracy is None else file.provenance,
        duration_s=duration_s(trace, run),
        wall_s=seen.wall_s,
        synthetic=made_up(trace, run),
    )


def _payloads(folder: Path | None, run: RunOptions, file: PipelineFile) -> list[NDArray[Any]] | None:
    if folder is not None:
        files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
        if not files:
            raise PayloadsError(f"--payloads {folder} is not a folder with files in it")
        return [np.frombuffer(path.read_bytes(), np.uint8) for path in files]
    workload = make_workload(file, PAYLOADS, run.seed)
    return None if workload is None else workload.payloads(file.tree[0])
