"""What rerouting is worth: the four dropping policies on the same requests, plan held, *traffic* at 0.8 to 1.2 of the plan's
capacity; paired differences of `reroute` and `per-task` with their bootstrap interval, whatever the sign."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from scipy.stats import bootstrap

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Queueing, Request
from loki_rl.core.options import DROPS, ClusterOptions, DropPolicy
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan
from loki_rl.core.requests.ledger import Summary
from loki_rl.env.simulate import simulate
from loki_rl.files.config import load_pipeline
from loki_rl.traces.arrivals import arrivals
from loki_rl.traces.demand import Trace, TraceOptions
from loki_rl.traces.generate import generate

# Chosen with seeds 1000 to 1002 and then left alone: a demand whose plan mixes variants (else there is nothing to reroute
# to), and a length that holds many bursts. Seeds from 1 on are reported.
DEMAND_RPS = 300.0
SERVERS = 20
SECONDS = 20
LOADS = (0.8, 0.9, 1.0, 1.1, 1.2)
KINDS = ("poisson", "mmpp")
PLANS: tuple[Queueing, ...] = ("tail", "half-slo")


class Pair(Struct, frozen=True):
    """One set of requests under every dropping policy."""

    kind: str
    load: float
    summaries: dict[DropPolicy, Summary]

    def difference(self, figure: str) -> float:
        """reroute minus per-task."""
        with_it, without = self.summaries["reroute"], self.summaries["per-task"]
        return float(getattr(with_it, figure) - getattr(without, figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    seeds = range(1, 1 + parser.parse_args().seeds)
    pipeline = load_pipeline("traffic").pipeline
    for queueing in PLANS:
        plan = allocate(pipeline, Request(demand_rps=DEMAND_RPS, servers=SERVERS, queueing=queueing))
        placed = ", ".join(f"{place.replicas} x {place.variant} b{place.batch}" for place in plan.placements)
        print(f"\nplan '{queueing}' for {DEMAND_RPS:g} requests/s, capacity {plan.capacity_rps:.0f}: {placed}")
        report([play(pipeline, plan, kind, load, seed) for kind in KINDS for load in LOADS for seed in seeds])


def play(pipeline: Pipeline, plan: Plan, kind: str, load: float, seed: int) -> Pair:
    times = arrivals(demand(kind, load * plan.capacity_rps, seed), TraceOptions(), seed)
    summaries: dict[DropPolicy, Summary] = {}
    for drop in DROPS:
        options = ClusterOptions(pipeline, SERVERS, seed=seed, drop=drop, interval_s=10.0 * SECONDS)
        summaries[drop] = simulate(options, lambda _: plan, times, float(SECONDS)).summary
    return Pair(kind, load, summaries)


def demand(kind: str, mean_rps: float, seed: int) -> Trace:
    """Steady Poisson demand, or bursts of about half a second at three times the rate in between."""
    if kind == "poisson":
        return generate("ramp", SECONDS, mean_rps, seed, peak=1.0)
    return generate("mmpp", SECONDS, mean_rps / 1.5, seed, peak=3.0, period_s=2.0)


# -- report -----------------------------------------------------------------------------------------------------------------


def report(pairs: Sequence[Pair]) -> None:
    print(
        f"{'demand':<8} {'load':>4} {'n':>3} | violations % {' '.join(f'{drop:>9}' for drop in DROPS)} | reroute - per-task"
    )
    for kind in KINDS:
        for load in LOADS:
            some = [pair for pair in pairs if (pair.kind, pair.load) == (kind, load)]
            means = [np.mean([pair.summaries[drop].slo_violation_ratio for pair in some]) for drop in DROPS]
            cells = " ".join(f"{100 * mean:>9.2f}" for mean in means)
            change = np.mean([pair.difference("slo_violation_ratio") for pair in some])
            print(f"{kind:<8} {load:>4} {len(some):>3} | {'':>12} {cells} | {100 * change:+.2f} points")
    for figure in ("slo_violation_ratio", "leaf_violation_ratio", "accuracy"):
        print(f"  {interval(figure, [pair.difference(figure) for pair in pairs])}")


def interval(figure: str, differences: Sequence[float]) -> str:
    """Mean of the paired differences with its 95 % interval, and what it means."""
    found = bootstrap(
        (np.array(differences),), np.mean, n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = 100 * found.low, 100 * found.high
    verdict = "no difference shown" if low <= 0 <= high else "lower with reroute" if high < 0 else "higher with reroute"
    mean = 100 * float(np.mean(differences))
    return f"{figure}: {mean:+.2f} points [{low:+.2f}, {high:+.2f}] in {len(differences)} pairs: {verdict}"


if __name__ == "__main__":
    main()
