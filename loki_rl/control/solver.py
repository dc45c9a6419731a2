"""Runs the solver of the live system on a PuLP model and reads its report. The one place that chooses it; knows nothing of
what a model means."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from loki_rl.control.highs import Outcome
from loki_rl.control.own_solver import OwnSolver, Report, warm

__all__ = ["Solved", "solve", "solve_again", "warm"]

GAP = 1e-6


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


def solve(problem: Any, time_limit_s: float, gap: float = GAP, start: dict[str, float] | None = None) -> Solved:
    """Solve a PuLP problem, one thread.

    PuLP calls a time-limited answer of other solvers "Optimal" and an infeasible one 0.0, so the outcome is that of the
    report. start: values of all or some integer variables of a known plan. Deterministic unless the time limit strikes.
    """
    for variable in problem.variables() if start else ():
        variable.varValue = start.get(variable.name) if start else None
    problem.solve(OwnSolver(timeLimit=max(0.01, time_limit_s), gapRel=gap, warmStart=start is not None))
    solved = _read(problem)
    if solved.found:
        solved.values = {variable.name: variable.varValue for variable in problem.solverModel.variables}
    return solved


def solve_again(problem: Any, time_limit_s: float, integer: bool = True, start: bool = False) -> Solved:
    """Solve a kept problem after changes that PuLP's resolve allows; values are left in its variables.

    start: the variables' values are a known solution. integer off: the relaxation.
    """
    problem.setSolver(OwnSolver(mip=integer, timeLimit=max(0.01, time_limit_s), gapRel=GAP, warmStart=start))
    if problem.solverModel is None:
        problem.solve(problem.solver)
    else:
        # PuLP forbids it after a change of the objective; this solver reads the objective anew.
        problem.resolveOK = True
        problem.resolve()
    return _read(problem)


def _read(problem: Any) -> Solved:
    report: Report = problem.report
    return Solved(report.outcome, report.status, report.objective, report.bound, report.seconds, {})
