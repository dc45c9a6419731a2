"""The command that plays a trace from its first request to its last: simulate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec.structs import replace

from loki_rl.cli import terminal
from loki_rl.cli.flags import FaultsFile, Json, Logdir, RecordingFile, UsageError, alone
from loki_rl.cli.provenance import tell_profile
from loki_rl.cli.results import finish, need_models, own_folder, played_again
from loki_rl.decoding import UNREADABLE
from loki_rl.env.faults import load_faults
from loki_rl.files.tables import wording
from loki_rl.files.user_folders import writable
from loki_rl.options import Help
from loki_rl.runs.options import RunOptions, read_options
from loki_rl.runs.run import RUNNERS
from loki_rl.runs.run_folder import folder_of


def simulate(
    options: RunOptions | None,
    faults: FaultsFile = None,
    logdir: Logdir = None,
    config: Annotated[Path | None, Help("Repeat the run of this run.json.")] = None,
    journal: RecordingFile = None,
    as_json: Json = False,
) -> None:
    """Play a trace against a policy in the event twin or on a plane of this host, repeat any run, or play what a plane was
    asked once more, with another policy, SLO or cluster."""
    writable(logdir)
    recorded = None
    if config is not None:
        alone("--config repeats a run as it was", {"config", "logdir", "as_json"})
        options = _read_config(config)
    if journal is not None:
        options, recorded = played_again(journal)
    if options is None:
        raise UsageError("name a pipeline (or a run to repeat with --config, or a recording with --journal)")
    if faults is not None:
        options = replace(options, faults=load_faults(faults))
    if options.driver == "onnx":
        need_models(options, options.driver)
    tell_profile(options.file)
    logdir = None if logdir is None else own_folder(options, logdir)
    folder = None if logdir is None else folder_of(options, logdir)
    with terminal.progress_bars() as bars:
        done = RUNNERS[options.driver](options, folder, partial(bars, "playing the trace"))
    finish(done, logdir, as_json, recorded)


def _read_config(path: Path) -> RunOptions:
    try:
        return read_options(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise UsageError(wording(error, str(path), RunOptions.__struct_fields__)) from error
    except UNREADABLE as error:
        raise UsageError(f"{path} is not the run.json of a run: {error}") from error
