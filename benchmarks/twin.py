"""How fast the event twin is: task executions per CPU second on *traffic*. The plan is made before the clock starts, so that
the figure is the twin's and not a solver's; CPU time of this process, median and best of several runs: on a busy host caches
are shared, and only the best says what the code costs."""

from __future__ import annotations

import argparse
from statistics import median
from time import process_time

from loki_rl.control.policies.named import make_policy
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.env.world import Decide
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import Scene, prepare

GOAL = 150_000
LOADS_RPS = (100.0, 200.0, 400.0)
SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"{'requests/s':>10} {'executions':>10} {'events':>8} {'violations':>10} {'executions/CPU s':>17} {'best':>9}")
    rates = [measure(rps, repeats) for rps in LOADS_RPS]
    medians, bests = zip(*rates, strict=True)
    print(f"worst load: {min(medians):,.0f} (best {min(bests):,.0f}) task executions per CPU second; goal {GOAL:,}")


def measure(rps: float, repeats: int) -> tuple[float, float]:
    """Executions per CPU second at a load that rises and falls around this mean: median and best of the runs."""
    scene = prepare(RunOptions("traffic", "diurnal", "static", mean_rps=rps, compress=1200 / SECONDS))
    decide = make_policy("static", scene.pipeline, scene.policy).decide
    timed = [play(scene, decide) for _ in range(repeats + 1)][1:]  # the first one warms up
    done = timed[0][1]
    rates = [done.tally.executions / seconds for seconds, _ in timed]
    violated = done.summary.slo_violation_ratio
    print(
        f"{rps:>10.0f} {done.tally.executions:>10} {done.events:>8} {violated:>10.2%} {median(rates):>17,.0f} "
        f"{max(rates):>9,.0f}",
        flush=True,
    )
    return median(rates), max(rates)


def play(scene: Scene, decide: Decide) -> tuple[float, Simulation]:
    """CPU seconds of one run, and the run."""
    began = process_time()
    done = simulate(scene.cluster, decide, scene.times, scene.duration_s)
    return process_time() - began, done


if __name__ == "__main__":
    main()
