"""Which runs belong together: those that differ in policy, trace, seed and driver alone. A log folder holds one experiment;
what belongs to another one gets a folder of its own in it, so that neither overwrites the other nor shares its charts."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import msgspec
from msgspec.structs import replace

from loki_rl.decoding import UNREADABLE
from loki_rl.runs.options import RunOptions, read_options

FILE = "experiment.json"


def experiment_folder(options: RunOptions, logdir: Path) -> Path:
    """The log folder itself where it holds no experiment or this one, else one in it that does. It is marked as this
    experiment's; what another program wrote there stays. Raises OSError where it cannot be written."""
    wanted = _common(options)
    name = Path(options.pipeline).stem
    for number in count(1):
        folder = logdir if number == 1 else logdir / f"{name}-{number}"
        if not (folder / FILE).exists():
            _mark(folder, wanted)
            return folder
        if _held(folder) == wanted:
            return folder
    raise AssertionError("there is always another number")


def differences(options: RunOptions, logdir: Path) -> str:
    """In what an experiment differs from the one that the log folder holds, in words; empty if in nothing."""
    held, wanted = _held(logdir), _common(options)
    if held is None:
        return f"its {FILE} is not of this program" if (logdir / FILE).exists() else ""
    names = [name for name in RunOptions.__struct_fields__ if getattr(held, name) != getattr(wanted, name)]
    return ", ".join(f"{name} {_word(getattr(held, name))} there, {_word(getattr(wanted, name))} here" for name in names)


def _common(options: RunOptions) -> RunOptions:
    """What the runs of an experiment share. A calibration is of the twin alone, and a model of agents."""
    return replace(options, trace="", policy="", seed=0, driver="twin", calibration=None, model=None)


def _mark(folder: Path, wanted: RunOptions) -> None:
    """In one step: half of it would look like that of another program."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{FILE}.{os.getpid()}"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(wanted), indent=2) + b"\n")
    draft.replace(folder / FILE)


def _held(folder: Path) -> RunOptions | None:
    """Nothing where there is no file, or one that is not of ours."""
    try:
        return read_options((folder / FILE).read_bytes())
    except (OSError, *UNREADABLE):
        return None


def _word(value: object) -> str:
    return "none" if value is None else str(value) if isinstance(value, (str, int, float)) else "others"
