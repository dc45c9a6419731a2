"""Results of runs in their folders. Owns when a folder still answers for its options; knows neither how a run is made nor
what its files look like."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

import msgspec

from loki_rl.files.config import ConfigError
from loki_rl.runs import telemetry
from loki_rl.runs.run import RunOptions, RunResult, read_options
from loki_rl.traces.trace import TraceError, find_trace, load_trace

# Folders whose code makes the figures of a run.
DECIDING = ("core", "control", "env", "serving", "traces", "agents", "reading")


def folder_of(options: RunOptions, logdir: Path) -> Path:
    """Where the run with these options is or will be. Raises TraceError if its trace cannot be read."""
    trace = load_trace(options.trace).name
    return telemetry.run_folder(logdir, options.driver, options.policy, trace, options.seed)


def save(done: RunResult, logdir: Path) -> Path:
    """Write the folder of a run, in place of an older run in it."""
    return telemetry.write_run(
        logdir,
        telemetry.Run(
            options=msgspec.Raw(msgspec.json.encode(done.options)),
            driver=done.options.driver,
            policy=done.options.policy,
            trace=done.trace,
            seed=done.options.seed,
            summary=done.summary,
            tally=done.tally,
            servers=done.servers,
            best_accuracy=done.best_accuracy,
            provenance=done.provenance,
            duration_s=done.duration_s,
            wall_s=done.wall_s,
            synthetic=done.synthetic,
            inputs=_inputs(done.options),
        ),
    )


def load(folder: Path) -> RunResult:
    """The result of a run, without the latencies of single requests. Raises RunFolderError or ValueError."""
    run = telemetry.read_run(folder)
    return RunResult(
        options=read_options(bytes(run.options)),
        trace=run.trace,
        summary=run.summary,
        tally=run.tally,
        servers=run.servers,
        best_accuracy=run.best_accuracy,
        provenance=run.provenance,
        duration_s=run.duration_s,
        wall_s=run.wall_s,
        synthetic=run.synthetic,
    )


def load_current(folder: Path, options: RunOptions) -> RunResult | None:
    """The result of a complete run with exactly these options on the files as they are now, if the folder has one."""
    if not telemetry.is_complete(folder):
        return None
    try:
        run = telemetry.read_run(folder)
        same = read_options(bytes(run.options)) == options and run.inputs == fingerprint(options)
    except ValueError:  # written by another version: it is made again
        return None
    return load(folder) if same else None


def _inputs(options: RunOptions) -> str:
    """Nothing of a run that no file can repeat: a plane served whoever came, or a file has gone since."""
    try:
        return fingerprint(options)
    except (ConfigError, TraceError):
        return ""


def fingerprint(options: RunOptions) -> str:
    """Of everything outside its options that a run depends on: pipeline, profile, trace and the code that decides.

    Raises ConfigError or TraceError where one cannot be read."""
    pipeline = options.file
    files = [pipeline.path, *([pipeline.profile] if pipeline.profile else []), find_trace(options.trace)]
    digest = sha256()
    for file in (*files, *_code()):
        digest.update(sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _code() -> tuple[Path, ...]:
    """Not the version: while the package is being changed, it would pass old figures off as new ones."""
    package = Path(__file__).parents[2]
    return tuple(sorted(file for folder in DECIDING for file in (package / folder).rglob("*.py")))
