"""What `exact` believes and when it spends accuracy, second by second: *traffic*, 20 servers, loads of 5 s, in the event
twin; a calm stretch of a real day, one that swings, and a crowd that nobody has seen before.

    python -m benchmarks.beliefs [--out docs/beliefs.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.demand.belief import Coming
from loki_rl.control.policies.exact import Exact
from loki_rl.core.plan import Plan, Snapshot
from loki_rl.core.requests.ledger import Summary, Tally
from loki_rl.env.simulate import simulate
from loki_rl.reports.plots import COLOURS, drawing
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import prepare

BASE = RunOptions("traffic", "", "exact", servers=20, load_s=5.0, mean_rps=131.0)
SCENES = {
    "calm: a day of Azure Functions, 60 times as fast": replace(
        BASE, trace="azure_functions_2019_500f", compress=60.0, from_s=3_600.0, to_s=21_600.0
    ),
    "swinging: requests of a load balancer, 300 times as fast": replace(
        BASE, trace="nab_elb_requests_2014", compress=300.0, from_s=100_800.0, to_s=190_800.0
    ),
    "a crowd, never seen before": replace(BASE, trace="flash_crowd", mean_rps=300.0),
}
LABELS = ("requests/s", "accuracy of answers [%]", "servers in use")
CHANCES = ("sure", "likely", "as likely as not", "unlikely", "hardly ever")
SMOOTH_S = 3
# At first it knows nothing, and believes anything.
UNSURE_S = 10.0
SHADES = ("#56B4E9", "#80C6EE", "#A8D8F3", "#CBE7F8", "#E6F3FB")


class Watched(Struct):
    """A run, and what was believed at each second [s] of it."""

    believed: list[tuple[float, Coming]]
    tally: Tally
    summary: Summary


class Watching:
    """`exact`, and what it believed."""

    def __init__(self, policy: Exact) -> None:
        self.policy, self.believed = policy, list[tuple[float, Coming]]()

    def decide(self, snapshot: Snapshot) -> Plan:
        plan = self.policy.decide(snapshot)
        self.believed.append((snapshot.now, self.policy.coming(snapshot)))
        return plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/beliefs.png"))
    given = parser.parse_args()
    seen = {name: watch(options) for name, options in SCENES.items()}
    for name, one in seen.items():
        lost, accuracy = 100 * one.summary.slo_violation_ratio, one.summary.accuracy
        print(f"{name}: J {one.summary.cost_j:.3f}, lost {lost:.2f} %, accuracy {accuracy:.3f}")
    title = "What exact believes, and what it does: traffic, 20 servers, models load in 5 s"
    with drawing(given.out, title, (15.0, 8.4)) as figure:
        axes = figure.subplots(3, len(seen), sharex="col", height_ratios=[1.6, 1, 1])
        for column, (name, one) in enumerate(seen.items()):
            axes[0, column].set_title(name)
            beliefs(axes[0, column], one)
            deeds(axes[1:, column], one)
        for axis, label in zip(axes[:, 0], LABELS, strict=True):
            axis.set_ylabel(label)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)


def watch(options: RunOptions) -> Watched:
    scene = prepare(options)
    watching = Watching(Exact(scene.pipeline, scene.policy))
    done = simulate(scene.cluster, watching.decide, scene.times, scene.duration_s)
    return Watched(watching.believed, done.tally, done.summary)


def beliefs(axis: Any, one: Watched) -> None:
    """Demand as counted, as expected, and how far it may rise, the darker the likelier."""
    times = [now for now, _ in one.believed]
    below = np.zeros(len(times))
    for number, (colour, word) in enumerate(zip(SHADES, CHANCES, strict=True)):
        top = np.array([coming.slices[number].to_rps for _, coming in one.believed])
        axis.fill_between(times, below, top, color=colour, lw=0, step="post", label=word)
        below = top
    seconds = sorted(one.tally.seconds.items())
    arrived = [second.arrivals for _, second in seconds]
    axis.step([number for number, _ in seconds], arrived, where="post", color="black", lw=0.8, label="arrived")
    axis.plot(times, [coming.expected_rps for _, coming in one.believed], color=COLOURS[1], lw=1.2, label="expected")
    axis.set_xlim(0, None)
    axis.set_ylim(0, 1.05 * float(below[np.array(times) > UNSURE_S].max()))


def deeds(axes: Any, one: Watched) -> None:
    seconds = [second for _, second in sorted(one.tally.seconds.items())]
    times = np.array(sorted(one.tally.seconds))
    ok = np.array([second.outcomes[0] for second in seconds], float)
    good = np.array([second.accuracy_sum for second in seconds])
    window = np.ones(SMOOTH_S)
    share = np.convolve(good, window, "same") / np.maximum(np.convolve(ok, window, "same"), 1.0)
    axes[0].plot(times, 100 * share, color=COLOURS[2])
    axes[1].step(times, [second.servers for second in seconds], where="post", color=COLOURS[0])
    axes[1].set_xlabel("seconds")
    axes[0].set_ylim(70, 101)
    axes[1].set_ylim(0, 20.5)


if __name__ == "__main__":
    main()
