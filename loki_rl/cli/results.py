"""Before a run and after it: whether its models are there, where it belongs, and what becomes of its result."""

from __future__ import annotations

from pathlib import Path

from loki_rl.cli import terminal
from loki_rl.cli.flags import UsageError, typed
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.user_folders import writable
from loki_rl.reports.board import show_run
from loki_rl.reports.report import table
from loki_rl.runs.experiment import differences, experiment_folder
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.shadow_figures import Beside
from loki_rl.runs.recorded.what_if import recording_of, what_if
from loki_rl.runs.result import RunResult, row
from loki_rl.runs.run_folder import save
from loki_rl.serving.engines.adapter import adapter_class
from loki_rl.serving.engines.device import check_word
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.files import NoModelError
from loki_rl.serving.engines.model_repository import find_model
from loki_rl.serving.profiling.workload import workload_class


def own_folder(options: RunOptions, logdir: Path) -> Path:
    """The log folder, or one in it where it holds another experiment, which is said. Raises FolderError as `writable`."""
    writable(logdir)
    folder = experiment_folder(options, logdir)
    if folder != logdir:
        why = differences(options, logdir)
        terminal.note(f"{logdir} holds another experiment ({why}); these runs go to {folder}")
    return folder


def need_models(run: RunOptions, engine: str | None) -> None:
    """Models that are not there, or a device that is none, would only be missed by workers, after a minute of waiting for
    them. Raises UsageError, ConfigError."""
    try:
        check_word(run.device)
    except EngineError as error:
        raise UsageError(str(error)) from None
    file = load_pipeline(run.pipeline, need_profile=False)
    if engine == "onnx" and not file.models:
        raise UsageError(f"pipeline '{file.name}' names no models, so nothing but emulated workers can serve it")
    for spec in file.models.values():
        adapter_class(spec.adapter)
        try:
            if engine != "emulated":
                find_model(file.repository, spec.model)
        except NoModelError as error:
            raise UsageError(f"{error}; {_remedy(file)}") from None


def _remedy(file: PipelineFile) -> str:
    """What helps where a model of this pipeline is not there."""
    if hasattr(workload_class(file), "fetch"):
        return f"run 'loki-rl models fetch {file.argument}', or correct 'repository'"
    return f"put it there, or correct 'model' or 'repository' in {file.path}"


def played_again(recording: Path) -> tuple[RunOptions, RunResult]:
    """The options of a run on recorded requests, and what the recorded run made of them."""
    if "trace" in typed(["trace"]):
        raise UsageError("--journal brings the requests of a plane; leave --trace out")
    return what_if(recording_of(recording), typed(RunOptions.__struct_fields__))


def finish(
    done: RunResult, logdir: Path | None, as_json: bool, recorded: RunResult | None = None, shadows: Beside | None = None
) -> None:
    """Write the folder of a run, where one was asked for, and tell what came out. recorded: the run whose requests it
    played, to be set beside it; shadows: who met the same requests in the twin."""
    if logdir is not None:
        show_run(done, save(done, logdir))
    told = row(done) if recorded is None else row(done) | {"recorded": row(recorded)}
    rows = [done] if recorded is None else [recorded, done]
    if shadows is not None:
        told |= {"shadows": [row(one) for one in shadows.done], "notes": shadows.notes(done.summary.arrivals)}
        rows += shadows.done
        for note in shadows.notes(done.summary.arrivals):
            terminal.note(note)
    terminal.say(told, as_json, lambda: terminal.shown(table(rows)))
