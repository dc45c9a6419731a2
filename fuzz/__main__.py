"""`python -m fuzz [TARGET ...]`: fuzz targets one after the other with atheris, and tell what was found.

What a target finds or learns is kept in build/fuzz; the folder fuzz/corpus has what all checks begin with. Exit code 1: an
input was answered with another error than a target may raise, took longer than LIMIT_S, or more memory than a parser may.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from io import StringIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import atheris
from msgspec import Struct

if TYPE_CHECKING:
    from fuzz.targets import Target

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
WORK = HERE.parent / "build" / "fuzz"
# Of one input: processor time, which load of others does not change, and memory of the process [MB].
LIMIT_S = 1.0
LIMIT_MB = 2048
# For an input that never ends [s].
HANGS_S = 60
INPUTS = "inputs answered"
# Whose branches guide the search; what numba compiles must stay as it is.
INSTRUMENTED = [
    "yaml", "zipfile", "loki_rl.core", "loki_rl.files", "loki_rl.flight", "loki_rl.traces", "loki_rl.env.faults",
    "loki_rl.env.histogram", "loki_rl.serving.edge.oip", "loki_rl.serving.edge.rpc_codec", "loki_rl.serving.edge.zmtp",
    "loki_rl.serving.engines.model_repository", "loki_rl.serving.transport.protocol", "loki_rl.serving.transport.wire",
]  # fmt: skip


class Found(Struct):
    """What came of one target. cpu_minutes: of its process. failed: the end of what it said, if it found something."""

    inputs: int
    cpu_minutes: float
    failed: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    parser.add_argument("--minutes", type=float, default=20.0, help="processor time for each target")
    chosen = parser.parse_args()
    # It tells of every module.
    quiet = contextlib.redirect_stderr(StringIO())
    with quiet, atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from fuzz.targets import TARGETS
    found = [_watched(name, TARGETS[name], chosen.minutes) for name in chosen.targets or TARGETS]
    print(f"{sum(one.inputs for one in found)} inputs in all")
    return int(any(one.failed for one in found))


def _watched(name: str, target: Target, minutes: float) -> Found:
    """In a process of its own: the search ends its process, and so may what it finds."""
    work = WORK / name
    work.mkdir(parents=True, exist_ok=True)
    log = work / "log"
    child = os.fork()
    if not child:
        with log.open("wb") as stream:
            os.dup2(stream.fileno(), sys.stdout.fileno())
            os.dup2(stream.fileno(), sys.stderr.fileno())
        _search(name, target, work, minutes)
    _, status, used = os.wait4(child, 0)
    said = log.read_text(errors="replace")
    inputs = re.findall(rf"{INPUTS}: (\d+)", said)
    one = Found(int(inputs[-1]) if inputs else 0, (used.ru_utime + used.ru_stime) / 60, said[-3000:] if status else "")
    print(f"{name}: {one.inputs} inputs in {one.cpu_minutes:.2f} CPU minutes{': FAILED' if one.failed else ''}", flush=True)
    print(one.failed, end="", flush=True)
    return one


def _search(name: str, target: Target, work: Path, minutes: float) -> None:
    """Never returns."""
    from fuzz.mutations import mutate

    end = time.process_time() + 60 * minutes
    answered = count(1)

    def change(data: bytes, most: int, seed: int) -> bytes:
        return mutate(target.form, data, seed)[:most]

    def answer(data: bytes) -> None:
        began = time.process_time()
        with contextlib.suppress(*target.errors):
            target.parse(data)
        ended = time.process_time()
        if ended - began > LIMIT_S:
            raise TimeoutError(f"{name} took {ended - began:.2f} s for an input of {len(data)} bytes")
        inputs = next(answered)
        if ended > end:
            # libFuzzer's own limit is one by the clock on the wall.
            print(f"{INPUTS}: {inputs}", flush=True)
            os._exit(0)

    for number, seed in enumerate(target.seeds()):
        (work / "corpus").mkdir(exist_ok=True)
        (work / "corpus" / f"seed-{number}").write_bytes(seed)
    folders = [str(one) for one in (work / "corpus", CORPUS / name) if one.is_dir()]
    limits = [f"-timeout={HANGS_S}", f"-rss_limit_mb={LIMIT_MB}", "-max_len=65536"]
    flags = [*limits, "-verbosity=0", f"-artifact_prefix={work}/found-"]
    atheris.Setup(["fuzz", *flags, *folders], answer, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
