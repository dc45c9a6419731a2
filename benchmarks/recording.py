"""What a flight recorder costs: processor time of a plane's processes with one and without, in turn (A B A B ...), on the
same requests at a fixed rate; and bytes on disk for each request. The data plane is gateway, routers and workers; the
controller, which plans each second, is told apart.

    python -m benchmarks.recording [--pairs 4] [--seconds 20] [--rps 80]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from msgspec import Struct

from benchmarks.host import load_average, process_s
from loki_rl.core.messages import CONTROLLER
from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import load_pipeline
from loki_rl.flight.columns import read_flight
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.recording import begin_recording
from loki_rl.serving.load.replay import replay
from loki_rl.serving.process.launch import LocalPlane

SERVERS = 20
BAR = 0.03


class Cost(Struct):
    """Of one run. data_s, control_s: processor time [s]; items: executed; size: of the recording [bytes]."""

    data_s: float
    control_s: float
    items: int
    violations: float
    size: int = 0
    rows: str = ""


def measured(options: ClusterOptions, rps: float, seconds: float, recording: Path | None) -> Cost:
    """One plane, from its begin to its last answer."""
    times = np.sort(np.random.default_rng(1).uniform(0.0, seconds, round(rps * seconds)))
    told = {"servers": SERVERS, "demand_rps": 1.3 * rps}
    if recording is not None:
        begin_recording(recording, options, RunOptions("traffic", driver="emulated"))
    with LocalPlane(options, policy="static", policy_options=told, recording=recording) as plane:
        before = {name: process_s(pid) for name, pid in plane.pids.items()}
        seen = replay(plane.front, options.pipeline.name, times, None, options.pipeline.slo_s)
        used = {name: process_s(pid) - before[name] for name, pid in plane.pids.items()}
        plane.check()
    control_s = used.pop(CONTROLLER)
    items = seen.figures.task_executions or 0
    cost = Cost(sum(used.values()), control_s, items, seen.figures.slo_violation_ratio)
    if recording is not None:
        flight = read_flight(recording)[1]
        cost.size = recording.stat().st_size
        cost.rows = f"{len(flight.arrivals)} requests, {len(flight.services)} batches"
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rps", type=float, default=80.0)
    asked = parser.parse_args()
    options = ClusterOptions(load_pipeline("traffic").pipeline, SERVERS)
    requests = round(asked.rps * asked.seconds)
    print(f"traffic, {SERVERS} emulated workers, {asked.rps:g} requests/s for {asked.seconds:g} s a run; {load_average()}")
    plain: list[Cost] = []
    recorded: list[Cost] = []
    with TemporaryDirectory() as folder:
        for number in range(asked.pairs):
            plain.append(measured(options, asked.rps, asked.seconds, None))
            recorded.append(measured(options, asked.rps, asked.seconds, Path(folder) / f"flight-{number}"))
            for name, cost in (("without", plain[-1]), ("with", recorded[-1])):
                print(
                    f"{name:8} data plane {cost.data_s:.2f} s, controller {cost.control_s:.2f} s, "
                    f"{cost.items / asked.seconds:.0f} items/s, violations {cost.violations:.2%}"
                    + (f", {cost.size} bytes of {cost.rows}" if cost.size else ""),
                    flush=True,
                )
    without_s, with_s = (median(cost.data_s for cost in costs) for costs in (plain, recorded))
    ratios = sorted(cost.data_s / other.data_s - 1 for cost, other in zip(recorded, plain, strict=True))
    more = with_s / without_s - 1
    size = median(cost.size for cost in recorded) / requests
    verdict = f"bar {BAR:.0%}: {'met' if more <= BAR else 'missed'}"
    print(
        f"medians: {without_s:.2f} s without, {with_s:.2f} s with: {more:+.2%} (pairs {ratios[0]:+.2%} to "
        f"{ratios[-1]:+.2%}; {verdict}); {size:.1f} bytes a request; {time.strftime('%Y-%m-%d')}"
    )


if __name__ == "__main__":
    main()
