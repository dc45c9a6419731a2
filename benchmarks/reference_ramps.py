"""Leaf violations on the ramps that the public Loki artifact was run on: *traffic*, 20 servers, SLO 250 ms, models loaded in
no time, a plan every second. Arrivals are drawn along the same two ramps; --arrivals FOLDER has the artifact's own."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.core.draws import leaves_below
from loki_rl.core.effects import Effect
from loki_rl.core.messages import GATEWAY, Ended, Event, Outcome
from loki_rl.core.options import DropPolicy
from loki_rl.core.pipeline import Pipeline, root_of
from loki_rl.core.requests.items import members
from loki_rl.env.simulate import simulate
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import Scene, prepare
from loki_rl.traces.trace import Trace, save_trace

# Both ramps begin here [requests/s], and last so long.
BASE_RPS, SECONDS = 40.0, 26


class Ramp(Struct, frozen=True):
    """A reference run. peak_rps: reached after rise_s and held. last_s: roots that arrive in so many seconds before the end
    count. artifact: leaf violations of its own simulator, three seeds, counted its way. plan_accuracy: of the plan it ends
    with."""

    name: str
    peak_rps: float
    rise_s: float
    last_s: float
    artifact: tuple[float, float, float]
    plan_accuracy: float


RAMPS = (
    Ramp("ramp_to_150", 150.0, 14.0, 12.0, (0.117, 0.129, 0.108), 0.996),
    Ramp("ramp_to_300", 300.0, 16.0, 10.0, (0.143, 0.135, 0.134), 0.966),
)

# Name -> options. Loki's headroom is 5 % of demand, as published; 20 % was chosen on six generated ramps of the same two
# shapes with other arrivals: the least of 5, 10, 15, 20 % that kept all of them at a tenth of the artifact's. Exact plans
# for the tail of latency; with the paper's latency model it has more servers left for accuracy.
SETTINGS: dict[str, dict[str, Any]] = {
    "loki": {"policy": "loki"},
    "loki +20%": {"policy": "loki", "headroom": 0.2},
    "exact": {"policy": "exact"},
    "exact half-slo": {"policy": "exact", "queueing": "half-slo"},
}


class Leaves:
    """Counts leaves by the arrival of their root, as the ledger does, and as the artifact does: there every drop counts
    once, whatever would have become of it."""

    def __init__(self, pipeline: Pipeline, seed: int, times: list[float], since: float) -> None:
        self.pipeline, self.seed, self.times, self.since = pipeline, seed, times, since
        self.seen: set[int] = set()
        self.good = self.late = self.lost = self.drops = 0

    def record(self, address: str, now: float, event: Event, _: list[Effect]) -> None:
        if address == GATEWAY and isinstance(event, Ended):
            self._settled(event, now)

    def _settled(self, event: Ended, now: float) -> None:
        leaf = not self.pipeline.children[event.task]
        for item in self._first(members(self.pipeline, event.task, event.families)):
            arrived = self.times[root_of(item)]
            if arrived < self.since:
                continue
            if event.outcome is not Outcome.OK:
                self.drops += 1
                self.lost += leaves_below(self.seed, self.pipeline, item, event.task)
            elif leaf and now <= arrived + self.pipeline.slo_s:
                self.good += 1
            elif leaf:
                self.late += 1

    def _first(self, ids: Iterable[int]) -> list[int]:
        fresh = [item for item in ids if item not in self.seen]
        self.seen.update(fresh)
        return fresh

    @property
    def ratio(self) -> float:
        """leaf_violation_ratio."""
        return (self.late + self.lost) / (self.good + self.late + self.lost)

    @property
    def artifact_ratio(self) -> float:
        return (self.late + self.drops) / (self.good + self.late + self.drops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drop", default="reroute")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of fan-outs and service times; the arrivals are given")
    parser.add_argument("--arrivals", type=Path, help="folder with ramp_to_150.csv and ramp_to_300.csv, one arrival a line")
    given = parser.parse_args()
    with TemporaryDirectory() as drawn:
        play(given.arrivals or draw(Path(drawn)), given.drop, given.seeds)


def draw(folder: Path) -> Path:
    """Poisson arrivals along the ramps."""
    for number, ramp in enumerate(RAMPS):
        starts = np.arange(SECONDS, dtype=np.float64)
        rates = np.interp(starts, [0.0, ramp.rise_s], [BASE_RPS, ramp.peak_rps])
        save_trace(Trace(ramp.name, starts, np.random.default_rng(number).poisson(rates), 1.0), folder / f"{ramp.name}.csv")
    return folder


def play(arrivals: Path, drop: DropPolicy, seeds: int) -> None:
    print(f"{'ramp':<12} {'policy':<16} {'seed':>4} {'leaf viol.':>10} {'its way':>8} {'accuracy':>8} {'servers':>7}")
    for ramp in RAMPS:
        for name, options in SETTINGS.items():
            base = RunOptions(
                "traffic", str(arrivals / f"{ramp.name}.csv"), load_s=0.0, interval_s=1.0, drop=drop, servers=20,
                slo_ms=250.0, **options,
            )  # fmt: skip
            report(ramp, name, [replace(base, seed=seed) for seed in range(seeds)])


def report(ramp: Ramp, name: str, runs: list[RunOptions]) -> None:
    """A line for each seed, and how the worst of them stands against a tenth of the artifact's."""
    ratios, accuracies = [], []
    for options in runs:
        scene = prepare(options)
        leaves, accuracy, servers = measure(ramp, scene)
        ratios.append(leaves.ratio)
        accuracies.append(accuracy)
        print(
            f"{ramp.name:<12} {name:<16} {options.seed:>4} {leaves.ratio:>10.4f} {leaves.artifact_ratio:>8.4f} "
            f"{accuracy:>8.4f} {servers:>7.2f}",
            flush=True,
        )
    limit, floor = min(ramp.artifact) / 10, ramp.plan_accuracy - 0.02
    met = max(ratios) <= limit and min(accuracies) >= floor
    print(
        f"  the artifact {min(ramp.artifact):.3f}-{max(ramp.artifact):.3f} its way, accuracy of its plan "
        f"{ramp.plan_accuracy:.3f}; at most {limit:.4f} and accuracy >= {floor:.3f}: {'met' if met else 'not met'}"
    )


def measure(ramp: Ramp, scene: Scene) -> tuple[Leaves, float, float]:
    """Leaves, accuracy and mean servers of the counted window."""
    since = scene.duration_s - ramp.last_s
    leaves = Leaves(scene.pipeline, scene.options.seed, scene.times.tolist(), since)
    policy = make_policy(scene.options.policy, scene.pipeline, scene.policy)
    done = simulate(scene.cluster, policy.decide, scene.times, scene.duration_s, record=leaves.record)
    seconds = [second for number, second in done.tally.seconds.items() if since <= number < scene.duration_s]
    ok = sum(second.outcomes[Outcome.OK] for second in seconds)
    accuracy = sum(second.accuracy_sum for second in seconds) / max(ok, 1)
    return leaves, accuracy, sum(second.servers for second in seconds) / len(seconds)


if __name__ == "__main__":
    main()
