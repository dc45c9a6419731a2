"""Triton's load generator, perf_analyzer, against any server of the protocol. Owns its command line and its table."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from msgspec import Struct

from benchmarks.peers.environment import PeerError

Protocol = Literal["http", "grpc"]
NAME = "perf_analyzer"
# It takes three windows and their mean; alternating rounds tell how steady that is, so it need not.
ANY_DEVIATION, WINDOWS = "1000000", 3
SLACK_S = 60.0


class Analyzed(Struct):
    rps: float
    p50_ms: float
    p99_ms: float


def analyze(model: str, protocol: Protocol, port: int, concurrency: int, window_s: float) -> Analyzed:
    """So many requests in flight for three windows. Raises PeerError if there is no perf_analyzer or it does not finish."""
    with TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        options = {"-m": model, "-i": protocol, "-u": f"127.0.0.1:{port}", "--concurrency-range": concurrency}
        options |= {"-p": round(1000 * window_s), "-s": ANY_DEVIATION, "-r": WINDOWS, "--percentile": 50, "-f": table}
        command = [found(), *(str(word) for pair in options.items() for word in pair)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=SLACK_S + 4 * WINDOWS * window_s
            )
        except subprocess.TimeoutExpired:
            raise PeerError(f"{NAME} did not finish against '{model}' over {protocol}") from None
        if done.returncode or not table.exists():
            last = (done.stderr or done.stdout).strip().splitlines()
            raise PeerError(f"{NAME} failed against '{model}' over {protocol}: {last[-1] if last else 'it said nothing'}")
        row = next(csv.DictReader(table.open()))
    return Analyzed(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1000, float(row["p99 latency"]) / 1000)


def found() -> str:
    """Beside our own Python, or on the PATH. Raises PeerError."""
    path = shutil.which(NAME, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        raise PeerError(f"{NAME} is not installed; 'pip install perf-analyzer' needs glibc 2.38 or newer")
    return path
