"""What control costs on a plane: processor time of the controller's process, counting, planning and talking included, while
20 emulated servers meet bursty demand, as a share of one core. Without the seconds before the run, in which models of the
first plan load and code is compiled.

    python -m benchmarks.control_cpu [--policy exact] [--seconds 60] [--rps 130]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.host import load_average, process_s
from loki_rl.core.messages import CONTROLLER
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import on_plane, prepare
from loki_rl.serving.load.replay import replay
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.traces.generate import generate
from loki_rl.traces.trace import save_trace

SERVERS = 20
BAR = 0.05  # of one core


def measured(options: RunOptions) -> str:
    """Play a trace on a plane; what its controller took meanwhile."""
    scene = prepare(options)
    with LocalPlane(
        scene.cluster,
        engine="emulated",
        pipeline_file=str(scene.file.path),
        policy=options.policy,
        policy_options=on_plane(scene.policy),
    ) as plane:
        pid = plane.pids[CONTROLLER]
        before, began = process_s(pid), time.monotonic()
        seen = replay(plane.front, scene.pipeline.name, scene.times, None, scene.pipeline.slo_s)
        used_s, length_s = process_s(pid) - before, time.monotonic() - began
        plane.check()
    demand = f"{len(scene.times) / scene.duration_s:.0f} requests/s for {scene.duration_s:.0f} s"
    plans = f"a plan every {scene.cluster.interval_s:g} s ({len(seen.tally.plans)} plans)"
    share, lost = used_s / length_s, seen.figures.slo_violation_ratio
    verdict = "met" if share <= BAR else "missed"
    return (
        f"policy {options.policy}, {SERVERS} servers, {demand}, {plans}: controller {used_s:.2f} s of processor time, "
        f"{share:.1%} of a core (bar {BAR:.0%}: {verdict}); violations {lost:.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="exact")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rps", type=float, default=130.0)
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bursty.csv"
        save_trace(generate("bursty", asked.seconds, asked.rps, 0), path)
        options = RunOptions(
            "traffic", str(path), asked.policy, "emulated", servers=SERVERS, mean_rps=asked.rps, to_s=float(asked.seconds)
        )
        print(f"{measured(options)}; {load_average()}")


if __name__ == "__main__":
    main()
