"""Runs the solver of the live system on a PuLP model or a kept program and reads its report. The one place that chooses it;
knows nothing of what a model means."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from loki_rl.control.solver.highs import Outcome
from loki_rl.control.solver.own_solver import Report, optimise, warm
from loki_rl.control.solver.program import Program
from loki_rl.control.solver.simplex import Floats

__all__ = ["Solved", "solve", "solve_again", "warm"]

# Plans are proven to 1e-6; the rest of it is for what later phases, fixed points and the flow's own solve give up.
GAP = 7e-7


class Solved(Struct):
    """outcome: optimal (within the gap), infeasible (proven), unbounded, feasible (an incumbent at the limit) or unknown.

    status: the solver's own word. objective, bound: in the sense of the model. values: by the variable's name; empty after
    `solve_again`.
    """

    outcome: Outcome
    status: str
    objective: float
    bound: float
    seconds: float
    values: dict[str, float]

    @property
    def found(self) -> bool:
        return self.outcome in ("optimal", "feasible")


def solve(problem: Any, time_limit_s: float, gap: float = GAP) -> Solved:
    """Solve a PuLP problem, one thread. Deterministic unless the time limit strikes."""
    program = Program(problem)
    solved, values = solve_again(program, time_limit_s, gap=gap)
    if values is not None:
        solved.values = dict(zip(program.names, values.tolist(), strict=True))
    return solved


def solve_again(
    program: Program, time_limit_s: float, integer: bool = True, start: Floats | None = None, gap: float = GAP
) -> tuple[Solved, Floats | None]:
    """Solve a kept program as it is now; with values by variable. integer, start: as of `optimise`."""
    report, values = optimise(program, integer, max(0.01, time_limit_s), gap, start)
    return _solved(report), values


def _solved(report: Report) -> Solved:
    return Solved(report.outcome, report.status, report.objective, report.bound, report.seconds, {})
