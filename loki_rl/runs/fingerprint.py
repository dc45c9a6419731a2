"""Whether a run would come out the same: a digest of all that it is made of beside its options, by content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path

from loki_rl.files.config import PipelineFile
from loki_rl.files.pool_file import load_pool
from loki_rl.runs.options import RunOptions
from loki_rl.serving.engines.model_repository import find_model
from loki_rl.traces.trace import find_trace

PACKAGE = Path(__file__).parents[1]
# Code, compiled code, and the shipped agents and forecaster.
MADE_OF = {".py", ".so", ".npz"}


def fingerprint(options: RunOptions) -> str:
    """Raises ConfigError, TraceError or ModelError where a file cannot be found, OSError where it cannot be read."""
    digest = sha256(_code())
    for file in _inputs(options, options.file):
        digest.update(_content(file))
    return digest.hexdigest()


def _inputs(options: RunOptions, file: PipelineFile) -> Iterator[Path]:
    """Every file that the options name, and the files that these name, in an order that depends on nothing else."""
    yield file.path
    yield find_trace(options.trace)
    if file.profile is not None:
        yield file.profile
    if options.pool is not None:
        yield from load_pool(options.pool, [file]).files
    if options.model is not None:
        yield Path(options.model)
    if options.history is not None:
        yield Path(options.history)
    if options.calibration is not None:
        yield Path(options.calibration)
    if options.driver == "onnx":
        yield from (find_model(file.repository, spec.model).file for spec in file.models.values())


def _content(file: Path) -> bytes:
    with file.open("rb") as data:
        return file_digest(data, "sha256").digest()


@cache
def _code() -> bytes:
    """Of the whole package, not its version: while it is being changed, that would pass old figures off as new ones."""
    digest = sha256()
    # Its parts are links in a checkout.
    folders = sorted(os.walk(PACKAGE, followlinks=True))
    for file in (Path(folder, name) for folder, _, names in folders for name in sorted(names)):
        if file.suffix in MADE_OF:
            digest.update(_content(file))
    return digest.digest()
