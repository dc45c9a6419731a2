"""Run folders: what a run leaves on disk, as curves for TensorBoard and as files to read back. Owns the names of folders
and files; knows no option by name and neither driver nor policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.ledger import PlanRecord, Second, Summary, Tally
from loki_rl.errors import UserError
from loki_rl.runs.curves import curves
from loki_rl.runs.event_files import (
    Event,
    Value,
    experiment,
    layout,
    replace_events,
    scalars,
    session_end,
    session_start,
    write_once,
)

T = TypeVar("T")
OPTIONS, SUMMARY, SECONDS, PLANS = "run.json", "summary.json", "seconds.jsonl", "plans.jsonl"
CHARTS = {
    "SLO violations (share of the requests that arrived in the second)": ["serving/slo_violation_ratio"],
    "accuracy (of those answered in time)": ["serving/accuracy"],
    "servers in use": ["serving/servers_used", "policy/planned_servers"],
    "demand and goodput [requests/s]": ["serving/demand_rps", "serving/goodput_rps", "policy/planned_demand_rps"],
}


class RunFolderError(UserError):
    """A run folder cannot be read; the message is one sentence: which file, what, what to do."""


class Head(Struct, kw_only=True):
    """A finished run in short. trace: its short name. best_accuracy, servers: what `cost_j` is relative to. synthetic:
    what about its arrivals was not observed, in words. inputs: fingerprint of the files that the run read."""

    driver: str
    policy: str
    trace: str
    seed: int
    summary: Summary
    servers: int
    best_accuracy: float
    provenance: str
    duration_s: float
    wall_s: float
    inputs: str = ""
    synthetic: str = ""


class Run(Head, kw_only=True):
    """A run as its folder holds it. options: JSON of what repeats it. Latencies of single requests are not kept."""

    options: msgspec.Raw
    tally: Tally


class SummaryFile(Head, kw_only=True):
    """summary.json: what is not one figure a second."""

    leaves: int
    leaves_bad: int
    executions: int


class SecondLine(Struct):
    """A line of seconds.jsonl; the meaning is that of ledger.Second, second: its number since the trace began."""

    second: int
    arrivals: int
    ok: int
    late: int
    dropped: int
    rejected: int
    cancelled: int
    failed: int
    accuracy_sum: float
    servers: int
    loads: int


def run_folder(logdir: Path, driver: str, policy: str, trace: str, seed: int) -> Path:
    """Where a run lives below the log folder."""
    return logdir / driver / policy / trace / f"seed{seed}"


def write_run(logdir: Path, run: Run) -> Path:
    """Write the folder of a run, in place of an older run in it. The summary comes last: a folder with one is complete."""
    folder = run_folder(logdir, run.driver, run.policy, run.trace, run.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    write_once(logdir, _overview(run))
    replace_events(folder, _events(run))
    (folder / OPTIONS).write_bytes(msgspec.json.format(run.options, indent=2) + b"\n")
    lines = [_line(number, second) for number, second in sorted(run.tally.seconds.items())]
    (folder / SECONDS).write_bytes(msgspec.json.Encoder().encode_lines(lines))
    (folder / PLANS).write_bytes(msgspec.json.Encoder().encode_lines(_jsonable(run.tally.plans)))
    own = folder / f".{SUMMARY}"
    own.write_bytes(msgspec.json.format(msgspec.json.encode(_summary_file(run)), indent=2) + b"\n")
    own.replace(folder / SUMMARY)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether a run ended here and all of it was written."""
    return (folder / SUMMARY).is_file() and (folder / OPTIONS).is_file()


def read_run(folder: Path) -> Run:
    """Read a folder back. Raises RunFolderError if a file is missing or not as `write_run` writes it."""
    file = _read(folder / SUMMARY, msgspec.json.Decoder(SummaryFile).decode)
    lines = _read(folder / SECONDS, msgspec.json.Decoder(SecondLine).decode_lines)
    plans = _read(folder / PLANS, msgspec.json.Decoder(PlanRecord, strict=False).decode_lines)
    options = _read(folder / OPTIONS, msgspec.json.Decoder(msgspec.Raw).decode)
    tally = Tally(
        seconds={line.second: _second(line) for line in lines},
        leaves=file.leaves,
        leaves_bad=file.leaves_bad,
        executions=file.executions,
        plans=plans,
    )
    head = {name: getattr(file, name) for name in Head.__struct_fields__}
    return Run(**head, options=options.copy(), tally=tally)


def _jsonable(plans: list[PlanRecord]) -> list[object]:
    # A solver that ran out of time has no bound, so its gap is infinite, a number that JSON does not have.
    def spelled(value: object) -> object:
        if isinstance(value, dict):
            return {key: spelled(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [spelled(one) for one in value]
        return str(value) if isinstance(value, float) and not isfinite(value) else value

    return [spelled(msgspec.to_builtins(record)) for record in plans]


def _read(path: Path, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); run it again with its run.json") from error


def _summary_file(run: Run) -> SummaryFile:
    head = {name: getattr(run, name) for name in Head.__struct_fields__}
    tally = run.tally
    return SummaryFile(**head, leaves=tally.leaves, leaves_bad=tally.leaves_bad, executions=tally.executions)


def _line(number: int, second: Second) -> SecondLine:
    return SecondLine(
        second=number,
        arrivals=second.arrivals,
        **{outcome.name.lower(): second.outcomes[outcome] for outcome in Outcome},
        accuracy_sum=second.accuracy_sum,
        servers=second.servers,
        loads=second.loads,
    )


def _second(line: SecondLine) -> Second:
    outcomes = [getattr(line, outcome.name.lower()) for outcome in Outcome]
    return Second(
        arrivals=line.arrivals,
        outcomes=outcomes,
        accuracy_sum=line.accuracy_sum,
        open=line.arrivals - sum(outcomes),
        servers=line.servers,
        loads=line.loads,
    )


# -- TensorBoard ----------------------------------------------------------------------------------------------------------


def _events(run: Run) -> Iterator[Event]:
    points = curves(run.tally, run.duration_s, cluster=run.summary.servers_mean is not None)
    yield session_start(_session_options(run), group=f"{run.driver}/{run.policy}/{run.trace}")
    for step, point in enumerate(points):
        yield scalars(step, point)
    final = {f"eval/{name}": value for name, value in asdict(run.summary).items() if value is not None}
    yield scalars(len(points), final)
    yield session_end(run.duration_s)


def _overview(run: Run) -> Iterator[Event]:
    """What TensorBoard needs to know once for all runs."""
    yield layout("serving", CHARTS)
    names = ["trace", *(name for name in _options(run) if name not in {"trace", "seed"})]
    yield experiment(names, [f"eval/{name}" for name in Summary.__struct_fields__])


def _options(run: Run) -> dict[str, object]:
    return msgspec.json.decode(run.options, type=dict[str, object])


def _session_options(run: Run) -> dict[str, Value]:
    """The seed is left out: seeds are samples of the same run, which the hparams page then averages."""
    given = {name: value for name, value in _options(run).items() if isinstance(value, (str, int, float, bool))}
    given |= {"driver": run.driver, "policy": run.policy, "trace": run.trace, "servers": run.servers}
    given.pop("seed", None)
    return given
