"""The recording of a run on a plane: where it lies, and how it begins."""

from __future__ import annotations

import platform
import time
from itertools import count
from pathlib import Path

import msgspec

from loki_rl.core.options import ClusterOptions
from loki_rl.flight.file import VERSION, FlightError, Head, begin
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run_folder import clear
from loki_rl.serving.engines.hardware import host_name

RECORDING = "flight"


def recording_in(folder: Path) -> Path:
    """Where a run folder keeps its recording. Makes the folder, and takes the run before out of it. Raises FlightError."""
    path = folder / RECORDING
    try:
        clear(folder)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FlightError(f"nothing can be recorded in {folder}: {error.strerror}; name another folder") from error
    return path


def begin_recording(path: Path, cluster: ClusterOptions, options: RunOptions) -> Path:
    """Write the head of a new file, and say which it is: one that is there already is kept, and the new one has a number
    after its name. Raises FlightError."""
    device = "cpu" if options.driver == "emulated" else options.device
    host = f"{host_name(device)}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    head = Head(VERSION, cluster, msgspec.json.encode(options).decode(), host, time.time(), time.monotonic())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _begun(path.absolute(), head)
    except OSError as error:
        raise FlightError(f"{path} cannot be written: {error.strerror}; name another file to record to") from error


def _begun(path: Path, head: Head) -> Path:
    free = path
    for number in count(2):
        try:
            begin(free, head)
            break
        except FileExistsError:
            if path.is_dir():
                raise
            free = path.with_name(f"{path.name}.{number}")
    return free
