"""The own solver against HiGHS and CBC: disagreements over random problems, and median times.

From the repository's root: python -m benchmarks.solver [instances]
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from math import nan
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pulp

from loki_rl.control.solver.highs import solve_with_highs
from loki_rl.control.solver.own_solver import optimise, warm
from loki_rl.control.solver.program import Program
from loki_rl.files.config import load_pipeline
from tests.control.instances import plain, requests, small_pipeline, watch

PIPELINES = Path(__file__).parents[1] / "pipelines"
CLOSE = 2e-6
# HiGHS's tolerance; a solution that misses a row by more is none.
MISS = 1e-7
EVERY_CBC = 50


def stock_cbc(**options: Any) -> Any:
    """CBC where there is one, else None: PuLP 3 brings it (PULP_CBC_CMD), PuLP 4 finds an installed one (COIN_CMD)."""
    names = {"PULP_CBC_CMD", "COIN_CMD"} & set(pulp.listSolvers(onlyAvailable=True))
    return pulp.getSolver(max(names), **options) if names else None


class Tally:
    """Every instance falls in one class; milliseconds of CPU by kind and solver."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.classes: Counter[tuple[str, str]] = Counter()
        self.times: dict[tuple[str, str], list[float]] = {}
        self.worst = 0.0

    @property
    def total(self) -> int:
        return sum(self.kinds.values())

    def compare(self, kind: str, problem: Any, start: dict[str, float] | None = None) -> None:
        """Solve a problem with every solver and classify the answers."""
        self.kinds[kind] += 1
        report = self._own(kind, problem, start)
        began = process_time()
        program = Program(problem)
        answer = solve_with_highs(program, 60.0, 1e-6)
        self._took(kind, "highs", process_time() - began)
        self.classes[kind, self._judge(report, answer, program)] += 1
        cbc = stock_cbc(msg=False, gapRel=1e-6, timeLimit=20)
        if cbc and self.total % EVERY_CBC == 0:
            began = perf_counter()
            problem.solve(cbc)
            self._took(kind, "cbc", perf_counter() - began)

    def _own(self, kind: str, problem: Any, start: dict[str, float] | None) -> Any:
        began = process_time()
        program = Program(problem)
        known = None if start is None else np.array([start.get(name, nan) for name in program.names])
        report, _ = optimise(program, True, 60.0, 1e-6, known)
        self._took(kind, "own", process_time() - began)
        return report

    def _undecided(self, report: Any, answer: Any, program: Program) -> str:
        """HiGHS ran out of time: the own answer must lie between its solution and its bound."""
        objective = program.sign * (report.objective - program.offset)
        room = CLOSE * max(1.0, abs(objective))
        inside = answer.bound - room <= objective and not objective > answer.objective + room
        return "HiGHS undecided, consistent" if inside else "DISAGREEMENT: outside of HiGHS's bounds"

    def _took(self, kind: str, solver: str, seconds: float) -> None:
        self.times.setdefault((kind, solver), []).append(1000 * seconds)

    def _judge(self, report: Any, answer: Any, program: Program) -> str:
        own = {"no relaxation": "infeasible"}.get(report.own, report.own)
        if own in ("doubt", "none", "limit", "no limit"):
            return f"left to HiGHS ({own})"
        if answer.outcome in ("feasible", "unknown"):
            return self._undecided(report, answer, program)
        if own != answer.outcome:
            return f"DISAGREEMENT: own {own}, HiGHS {answer.outcome}"
        if own != "optimal":
            return f"agree {own}"
        theirs = program.sign * answer.objective + program.offset
        difference = abs(report.objective - theirs) / max(1.0, abs(theirs))
        self.worst = max(self.worst, difference)
        if report.solver != "own":
            return "left to HiGHS (unsound)"
        if difference <= CLOSE:
            return "agree optimal"
        if program.miss(answer.values) > MISS and abs(self._again(program, answer) - report.objective) <= CLOSE:
            return "agree optimal once HiGHS keeps its rows"
        return f"DISAGREEMENT: own {report.objective}, HiGHS {theirs}"

    def _again(self, program: Program, answer: Any) -> float:
        """What HiGHS's relaxation reaches with the integers that its search ended with, which missed a row."""
        whole = np.round(answer.values[program.integer])
        program.lower[program.integer] = program.upper[program.integer] = whole
        return float(program.sign * solve_with_highs(program, 60.0, 1e-6, integer=False).objective + program.offset)


def main(instances: int) -> None:
    warm()
    rng, tally = np.random.default_rng(7), Tally()
    paper = [load_pipeline(PIPELINES / f"{name}.yaml").pipeline for name in ("traffic", "traffic-published", "social")]
    while tally.total < instances:
        for _ in range(40):
            tally.compare("plain", plain(rng))
        for pipeline, kind in ((small_pipeline(rng), "small"), (paper[int(rng.integers(len(paper)))], "paper")):
            servers = int(rng.integers(2, 12) if kind == "small" else rng.integers(5, 40))
            for request in requests(rng, pipeline, servers):
                watch(pipeline, request, partial(tally.compare, kind))
    show(tally)


def show(tally: Tally) -> None:
    for (kind, outcome), count in sorted(tally.classes.items()):
        print(f"{kind:6} {outcome:45} {count}")
    wrong = sum(count for (_, outcome), count in tally.classes.items() if outcome.startswith("DIS"))
    print(f"{tally.total} instances, {wrong} disagreements, largest difference {tally.worst:.1e}")
    for (kind, solver), times in sorted(tally.times.items()):
        print(f"{kind:6} {solver:6} median {median(times):8.2f} ms, largest {max(times):9.1f} ms of {len(times)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
