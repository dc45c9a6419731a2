"""A replay of a trace against a plane that somebody else started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.errors import UserError
from loki_rl.files.config import ConfigError, find_pipeline, is_path
from loki_rl.progress import Progress, unseen
from loki_rl.runs.options import Driver, RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import PAYLOADS
from loki_rl.serving.gateway.remote_state import NoStateError, source
from loki_rl.serving.load.replay import replay
from loki_rl.serving.profiling.payload_files import PayloadsError, read_payloads
from loki_rl.serving.profiling.workload import make_workload
from loki_rl.serving.security.credentials import Credentials
from loki_rl.traces.arrivals import duration_s, made_up, requests
from loki_rl.traces.trace import load_trace


class TargetError(UserError):
    """What is to be sent to is not known well enough; the message says what is missing."""


class Target(Struct):
    """What requests are sent to. payloads: None where nothing looks at any. servers, best_accuracy: what costs are relative
    to where the server keeps no ledger. provenance: of the accuracies that the pipeline file gives."""

    name: str
    slo_s: float
    driver: Driver
    payloads: list[NDArray[Any]] | None
    servers: int
    best_accuracy: float
    provenance: str = ""


def replay_trace(
    url: str,
    run: RunOptions,
    payloads: Path | None = None,
    credentials: Credentials | None = None,
    progress: Progress = unseen,
    note: Callable[[str], None] = lambda _: None,
) -> RunResult:
    """Replay a trace against a running server. run: its trace, SLO and seed, and the pipeline: a file, or the name that the
    server has for it. payloads: folder of files to send, in order of their names; credentials: what is shown to the server.
    note: is told why requests failed, if any did.
    Raises AddressError, TraceError, ConfigError, ReplayError, ClientError, StateError, TargetError, ApiKeyError, TlsError,
    CurveKeyError or PayloadsError."""
    trace = load_trace(run.trace)
    times, wishes = requests(trace, run, run.seed)
    files = None if payloads is None else list(read_payloads(payloads, "--payloads").values())
    by_file = _has_file(run.pipeline)
    target = _of_file(url, run, files, credentials) if by_file else _told(url, run, files, credentials)
    seen = replay(
        url, target.name, times, target.payloads, target.slo_s, wishes=wishes, credentials=credentials, progress=progress
    )
    if seen.fault:
        why = " ".join(seen.fault.removeprefix("failed: ").split())
        note(f"{seen.figures.failed} requests failed, the first because: {why}")
    servers = target.servers if seen.ledger is None else seen.ledger.servers
    return RunResult(
        options=replace(run, policy="served", driver=target.driver, servers=servers),
        trace=trace.name,
        summary=seen.figures,
        tally=seen.tally,
        servers=servers,
        best_accuracy=target.best_accuracy,
        # Of the models of another server the pipeline file knows nothing.
        provenance="" if seen.figures.accuracy is None else target.provenance,
        duration_s=duration_s(trace, run),
        wall_s=seen.wall_s,
        synthetic=made_up(trace, run),
    )


def _has_file(pipeline: str) -> bool:
    """Whether a pipeline is known here. A path is always meant as one; a name may be the server's own."""
    try:
        find_pipeline(pipeline)
    except ConfigError:
        return is_path(pipeline)
    return True


def _of_file(url: str, run: RunOptions, files: list[NDArray[Any]] | None, credentials: Credentials | None) -> Target:
    file = run.file
    pipeline = file.pipeline
    if files is None:
        workload = make_workload(file, PAYLOADS, run.seed)
        files = None if workload is None else workload.payloads(file.tree[0])
    if files is None and file.models and not _is_emulated(url, credentials):
        raise PayloadsError(
            f"what the models of {file.path} take is not known here; add --payloads FOLDER, or name a 'workload' in the file"
        )
    driver: Driver = "onnx" if file.models else "emulated"
    known = pipeline.servers, pipeline.best_accuracy, file.provenance
    return Target(pipeline.name, pipeline.slo_s, driver, files, *known)


def _is_emulated(url: str, credentials: Credentials | None) -> bool:
    """Whether nothing there looks at payloads."""
    try:
        with source(url, credentials) as ask:
            return ask().engine == "emulated"
    except NoStateError:
        return False


def _told(url: str, run: RunOptions, files: list[NDArray[Any]] | None, credentials: Credentials | None) -> Target:
    """What the server says of a pipeline whose file is not here."""
    try:
        with source(url, credentials) as ask:
            state = ask()
    except NoStateError:
        return _unknown(url, run, files)
    if state.pipeline != run.pipeline:
        raise TargetError(f"{url} serves pipeline '{state.pipeline}', not '{run.pipeline}', of which there is no file here")
    emulated = state.engine == "emulated"
    if files is None and not emulated:
        raise PayloadsError(
            f"{url} runs the models of '{run.pipeline}', and what they take is not known here; add --payloads FOLDER, or "
            "name its pipeline file with --pipeline"
        )
    slo_s = state.slo_s if run.slo_ms is None else run.slo_ms / 1000
    driver: Driver = "emulated" if emulated else "onnx"
    return Target(run.pipeline, slo_s, driver, files, state.servers, state.best_accuracy)


def _unknown(url: str, run: RunOptions, files: list[NDArray[Any]] | None) -> Target:
    """Of another kind of server nothing is known but what the user says."""
    if files is None or run.slo_ms is None:
        missing = " and ".join(["--payloads FOLDER"] * (files is None) + ["--slo-ms MS"] * (run.slo_ms is None))
        raise TargetError(
            f"{url} does not tell how '{run.pipeline}' is served; add {missing}, or name its pipeline file with --pipeline"
        )
    return Target(run.pipeline, run.slo_ms / 1000, "onnx", files, 1, 1.0)
