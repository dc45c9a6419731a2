"""The own search against the model written down in PuLP and solved by HiGHS, on random questions: do they agree, and how
long do they take?

From the repository's root: python -m benchmarks.solver [instances]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate_jointly, capacity
from loki_rl.control.allocator.implicit_model import warm
from loki_rl.control.allocator.switching import SWITCH_GAP
from loki_rl.control.formulation.request import Part, Request
from loki_rl.core.plan import JointPlan
from loki_rl.files.config import load_pipeline
from tests.control.instances import Rng, questions

PIPELINES = Path(__file__).parents[1] / "pipelines"
# Each proves 1e-6.
CLOSE = 2e-6


class Tally:
    """Every instance falls in one class; milliseconds of CPU by kind and solver."""

    def __init__(self) -> None:
        self.classes: Counter[tuple[str, str]] = Counter()
        self.times: dict[tuple[str, str], list[float]] = {}
        self.worst = 0.0

    @property
    def total(self) -> int:
        return sum(self.classes.values())

    def compare(self, kind: str, parts: list[Part]) -> None:
        """Answer a question with both and classify the answers."""
        search = self._answer(kind, parts)
        pulp = self._answer(kind, [replace(part, request=replace(part.request, solver="pulp")) for part in parts])
        self.classes[kind, self._judge(search, pulp, CLOSE if parts[0].request.horizon_s is None else 2 * SWITCH_GAP)] += 1

    def _answer(self, kind: str, parts: list[Part]) -> JointPlan:
        began = process_time()
        plans = allocate_jointly(parts)
        self.times.setdefault((kind, parts[0].request.solver), []).append(1000 * (process_time() - began))
        return plans

    def _judge(self, search: JointPlan, pulp: JointPlan, close: float) -> str:
        if pulp.certificate.status not in ("Optimal", "Infeasible"):
            return "undecided: HiGHS ran out of time"
        size = max(1.0, abs(pulp.certificate.objective))
        difference = abs(search.certificate.objective - pulp.certificate.objective) / size
        self.worst = max(self.worst, difference / close)
        if difference > close or (search.mode != pulp.mode and close == CLOSE):
            return f"DISAGREEMENT: {search.mode} {search.certificate}, HiGHS {pulp.mode} {pulp.certificate}"
        if [plan.placements for plan in search.plans] == [plan.placements for plan in pulp.plans]:
            return "the same plan"
        return "as good, another plan"


def published(rng: Rng) -> list[Part]:
    """A question about a pipeline of the repository."""
    pipeline = load_pipeline(PIPELINES / f"{rng.choice(['traffic', 'traffic-published', 'social'])}.yaml").pipeline
    servers = int(rng.integers(5, 40))
    demand = float(capacity(pipeline, servers).capacity_rps * rng.uniform(0.05, 1.3))
    return [Part(pipeline, Request(demand, servers, min_accuracy=float(rng.choice([0.0, 0.8])), time_limit_s=60.0))]


def kind_of(parts: list[Part]) -> str:
    moving = "moving" if parts[0].request.horizon_s is not None else f"{len(parts)} pipelines"
    return f"{moving}, {len(parts[0].request.types)} types"


def main(instances: int) -> None:
    warm()
    rng, tally = np.random.default_rng(7), Tally()
    while tally.total < instances:
        if tally.total % 10 == 9:
            tally.compare("published", published(rng))
        else:
            parts = questions(rng)
            tally.compare(kind_of(parts), parts)
    show(tally)


def show(tally: Tally) -> None:
    for (kind, outcome), count in sorted(tally.classes.items()):
        print(f"{kind:20} {outcome:45} {count}")
    wrong = sum(count for (_, outcome), count in tally.classes.items() if outcome.startswith("DIS"))
    print(f"{tally.total} instances, {wrong} disagreements, largest difference {tally.worst:.2f} of what is allowed")
    for (kind, solver), times in sorted(tally.times.items()):
        print(f"{kind:20} {solver:6} median {median(times):8.2f} ms, largest {max(times):9.1f} ms of {len(times)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3_000)
