"""What share of the gap can be known at all: the regression that agents are taught by, on what they observe, and on that
beside what only the generator knows: the bursts that have begun, and how they will go on. Both are trained on the same
states and played on the same test windows of the fluid twin. Prints the gap closed from `exact` to the bound; asserts
nothing.

python -m benchmarks.ceiling [--pipeline traffic] [--states 8000] [--windows 256]"""

from __future__ import annotations

import argparse

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.agents.evaluate.counterfactuals import Judging, judged
from loki_rl.agents.evaluate.evaluation import bound
from loki_rl.agents.evaluate.rollouts import Decide, base, greedy, play
from loki_rl.agents.train.regression import FitOptions, fit
from loki_rl.control.demand.tanh_network import Layers
from loki_rl.env.fluid.batch import Pool
from loki_rl.env.fluid.windows import LEAD_IN_S
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.reports.statistics import gap_closed
from loki_rl.traces.generate import begun

AHEAD_S = (0, 2, 5, 10, 20, 30)
MARGIN = 0.5


def hidden(pool: Pool) -> NDArray[np.float32]:
    """[W, decisions, AHEAD_S] how much higher demand will be for the bursts that have begun."""
    options, first = pool.options, pool.windows.first_seed
    seconds = LEAD_IN_S + np.round(np.arange(options.steps + 1) * options.interval_s).astype(np.int64)
    known = [begun(options.length_s, first + number, AHEAD_S)[seconds] for number in range(pool.size)]
    return np.array(known, np.float32)


def told(weights: Layers, biases: Layers, known: NDArray[np.float32]) -> Decide:
    """Decides for all windows of a pool, side by side from their first decision on, with what is known beside what is
    observed."""
    choose, k = greedy(weights, biases, MARGIN), iter(range(1, known.shape[1]))

    def decide(observations: NDArray[np.float32], masks: NDArray[np.int8]) -> NDArray[np.int64]:
        return choose(np.concatenate((observations, known[:, next(k)]), axis=1), masks)

    return decide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="traffic")
    parser.add_argument("--states", type=int, default=8000, help="judged on training windows")
    parser.add_argument("--windows", type=int, default=256, help="to train on, and as many to test on")
    given = parser.parse_args()
    train = ClusterEnvOptions(pipeline=given.pipeline, windows=given.windows)
    test = replace(train, split="test")
    pool, examples = pool_for(test), judged(pool_for(train), base, Judging(), given.states, 0)
    beside = hidden(pool_for(train))[examples.window, examples.k]
    informed = replace(examples, observations=np.concatenate((examples.observations, beside), axis=1))
    plain = play(pool, base).cost_j
    least = bound(test).cost_j
    rules = {
        "what is observed": greedy(*fit(examples, FitOptions(), 0), MARGIN),
        "and the state of bursts": told(*fit(informed, FitOptions(), 0), hidden(pool)),
    }
    for name, decide in rules.items():
        found = play(pool, decide)
        share = gap_closed(plain, found.cost_j[None], least)
        print(
            f"{name:26} J {found.cost_j.mean():.4f} (exact {plain.mean():.4f}, bound {least.mean():.4f}), loses "
            f"{100 * found.slo_violation_ratio.mean():.3f} %: {100 * share.value:.0f} % [{100 * share.low:.0f}, "
            f"{100 * share.high:.0f}] of the gap"
        )


if __name__ == "__main__":
    main()
