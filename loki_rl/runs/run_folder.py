"""Run folders: what a run leaves on disk, and when a folder still answers for its options."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from loki_rl.core.requests.ledger import PlanRecord, Second, Tally
from loki_rl.decoding import UNREADABLE
from loki_rl.errors import UserError
from loki_rl.runs.fingerprint import fingerprint
from loki_rl.runs.options import RunOptions, read_options
from loki_rl.runs.result import Head, RunResult
from loki_rl.runs.tensorboard.telemetry import write_events
from loki_rl.traces.trace import load_trace

T = TypeVar("T")
# A line of seconds.jsonl: the number of a second since the trace began, and what is counted of it.
OPTIONS, SUMMARY, SECONDS, PLANS = "run.json", "summary.json", "seconds.jsonl", "plans.jsonl"


class RunFolderError(UserError):
    """A run folder cannot be read; the message is one sentence: which file, what, what to do."""


class SummaryFile(Head, kw_only=True):
    """summary.json: what is not one figure a second. inputs: fingerprint of all that the run was made of."""

    inputs: str
    leaves: int
    leaves_bad: int
    executions: int


def folder_of(options: RunOptions, logdir: Path) -> Path:
    """Where the run with these options is or will be. Raises TraceError if its trace cannot be read."""
    return folder_for(options, load_trace(options.trace).name, logdir)


def folder_for(options: RunOptions, trace: str, logdir: Path) -> Path:
    """The same, where the name of the trace is known."""
    return logdir / options.driver / options.policy / trace / f"seed{options.seed}"


def clear(folder: Path) -> None:
    """Make the folder of a run that begins: an older run in it is complete no longer. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)


def save(done: RunResult, logdir: Path) -> Path:
    """Write the folder of a run, in place of an older run in it. The summary comes last: a folder with one is complete."""
    folder, tally = folder_for(done.options, done.trace, logdir), done.tally
    clear(folder)
    write_events(done, folder, logdir)
    (folder / OPTIONS).write_bytes(_indented(done.options))
    (folder / SECONDS).write_bytes(msgspec.json.Encoder().encode_lines(sorted(tally.seconds.items())))
    (folder / PLANS).write_bytes(msgspec.json.Encoder().encode_lines(_jsonable(tally.plans)))
    summary = SummaryFile(
        **{name: getattr(done, name) for name in Head.__struct_fields__},
        inputs=_inputs(done.options),
        leaves=tally.leaves,
        leaves_bad=tally.leaves_bad,
        executions=tally.executions,
    )
    own = folder / f".{SUMMARY}"
    own.write_bytes(_indented(summary))
    own.replace(folder / SUMMARY)
    return folder


def load(folder: Path) -> RunResult:
    """The result of a run. Raises RunFolderError if a file is missing or not as `save` writes it."""
    options = _read(folder / OPTIONS, read_options)
    return _result(folder, options, _read(folder / SUMMARY, _SUMMARY.decode))


def load_current(folder: Path, options: RunOptions) -> RunResult | None:
    """The result of a complete run with exactly these options on the files as they are now, if the folder has one."""
    if not is_complete(folder):
        return None
    try:
        summary = _read(folder / SUMMARY, _SUMMARY.decode)
        current = _read(folder / OPTIONS, read_options) == options and summary.inputs == fingerprint(options)
        return _result(folder, options, summary) if current else None
    except (UserError, OSError):  # written by another version, or half of it: it is made again
        return None


def is_complete(folder: Path) -> bool:
    """Whether a run ended here and all of it was written."""
    return (folder / SUMMARY).is_file() and (folder / OPTIONS).is_file()


_SUMMARY = msgspec.json.Decoder(SummaryFile)


def _result(folder: Path, options: RunOptions, summary: SummaryFile) -> RunResult:
    tally = Tally(
        seconds=dict(_read(folder / SECONDS, msgspec.json.Decoder(tuple[int, Second]).decode_lines)),
        leaves=summary.leaves,
        leaves_bad=summary.leaves_bad,
        executions=summary.executions,
        plans=_read(folder / PLANS, msgspec.json.Decoder(PlanRecord, strict=False).decode_lines),
    )
    return RunResult(**{name: getattr(summary, name) for name in Head.__struct_fields__}, options=options, tally=tally)


def _inputs(options: RunOptions) -> str:
    """Nothing of a run that no file can repeat: a plane served whoever came, or a file has gone since."""
    try:
        return fingerprint(options)
    except (UserError, OSError):
        return ""


def _indented(content: Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


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
    except (OSError, *UNREADABLE) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); run it again with its run.json") from error
