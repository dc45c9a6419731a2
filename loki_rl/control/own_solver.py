"""The solver class behind PuLP's interface: own branch and bound where it is fast and certain, HiGHS where there is doubt.
Owns the choice between the two, every check and the report; knows nothing of what a model means."""

from __future__ import annotations

from functools import cache
from math import nan
from time import perf_counter
from typing import Any

import numpy as np
import pulp
from msgspec import Struct

from loki_rl.control.branching import Result, Search, Tree, root
from loki_rl.control.highs import Answer, Outcome, solve_with_highs
from loki_rl.control.program import Program, reachable
from loki_rl.control.simplex import CUT_OFF, INFEASIBLE, OPTIMAL, Floats, renew

# Beyond these HiGHS, which uses cuts, goes on.
MOST_NODES = 20_000
TOLERANCE = 1e-7

_STATUS = {
    "optimal": (pulp.LpStatusOptimal, pulp.LpSolutionOptimal),
    "infeasible": (pulp.LpStatusInfeasible, pulp.LpSolutionInfeasible),
    "unbounded": (pulp.LpStatusUnbounded, pulp.LpSolutionUnbounded),
    "feasible": (pulp.LpStatusNotSolved, pulp.LpSolutionIntegerFeasible),
    "unknown": (pulp.LpStatusNotSolved, pulp.LpSolutionNoSolutionFound),
}


class Report(Struct):
    """What a solve found out. outcome: as PuLP's status, but a solution at the time limit is `feasible`.

    solver: `own` or `highs`. own: what the own search said, `none` if it was not asked. status: the solver's own word.
    objective, bound: in the sense of the problem. nodes: of the own search.
    """

    outcome: Outcome
    solver: str
    own: str
    status: str
    objective: float
    bound: float
    seconds: float
    nodes: int


class OwnSolver(pulp.LpSolver):  # type: ignore[misc]
    """For small mixed-integer problems that are solved thousands of times.

    Every solution is checked against the problem as it was written and against its proven bound; every other answer is
    HiGHS's. `problem.resolve()` after a solve takes changed bounds, right-hand sides of inequalities and objectives, and
    starts from the first solve's relaxation. A known solution in the variables' initial values is used with
    warmStart=True. The report is `problem.report`.
    """

    name = "OwnSolver"

    def __init__(
        self,
        mip: bool = True,
        timeLimit: float = 60.0,  # noqa: N803  (PuLP's names)
        gapRel: float = 1e-6,  # noqa: N803
        warmStart: bool = False,  # noqa: N803
    ) -> None:
        super().__init__(mip=mip, msg=False, timeLimit=timeLimit, gapRel=gapRel, warmStart=warmStart)

    def available(self) -> bool:
        """It is always there; numba only makes it faster."""
        return True

    def actualSolve(self, lp: Any) -> int:  # noqa: N802  (PuLP's name)
        """Solve from nothing."""
        warm()
        began = perf_counter()
        lp.solverModel = Program(lp)
        lp.resolveOK = True
        return self._solve(lp, lp.solverModel, began)

    def actualResolve(self, lp: Any) -> int:  # noqa: N802  (PuLP's name)
        """Solve again after a change of bounds, right-hand sides or the objective."""
        began, program = perf_counter(), lp.solverModel
        return self._solve(lp, program, began) if program.refresh(lp) else self.actualSolve(lp)

    def _solve(self, lp: Any, program: Program, began: float) -> int:
        self._end, gap = began + self.timeLimit, self.optionsDict["gapRel"]
        start = _start(program) if self.mip and self.optionsDict["warmStart"] else None
        own = self._own(program, gap, start)
        mine = self._checked(program, own)
        answer = mine or self._ask_highs(program, own, gap, start)
        if mine and mine.outcome == "feasible" and self._left_s() > 0:
            answer = _better(mine, solve_with_highs(program, self._left_s(), gap, self.mip, mine.values))
        report = _report(program, own, answer, answer is mine)
        report.seconds = perf_counter() - began
        return _tell(lp, program, report, answer.values)

    def _checked(self, program: Program, own: Result) -> Answer | None:
        """An own solution inside every row and bound, worth what was said, and not better than what was proven."""
        if own.x is None or own.outcome not in ("optimal", "limit"):
            return None
        values, size = program.values(own.x, self.mip), max(1.0, abs(own.objective))
        same = abs(float(program.costs @ values) - own.objective) <= TOLERANCE * size
        if not same or own.bound > own.objective + TOLERANCE * size or program.miss(values) > TOLERANCE:
            return None
        outcome: Outcome = "optimal" if own.outcome == "optimal" else "feasible"
        return Answer(outcome, own.outcome.capitalize(), own.objective, own.bound, values)

    def _ask_highs(self, program: Program, own: Result, gap: float, start: Floats | None) -> Answer:
        """Where not even the relaxation has a solution, it is enough to ask for that."""
        if own.outcome == "no relaxation":
            answer = solve_with_highs(program, self._left_s(), gap, integer=False)
            if answer.outcome == "infeasible":
                return answer
        return solve_with_highs(program, self._left_s(), gap, self.mip, start)

    def _left_s(self) -> float:
        return float(self._end - perf_counter())

    def _own(self, program: Program, gap: float, start: Floats | None) -> Result:
        if not program.dense:
            return Result("none")
        lower, upper = program.bounds()
        if (lower > upper).any():
            return Result("no relaxation")
        size = len(program.constraints)
        costs = np.concatenate([program.costs, np.zeros(size)])[program.order]
        first = program.first._replace(costs=costs)
        outcome, now = root(first, program.root, lower, upper)
        if outcome != OPTIMAL:
            return Result({INFEASIBLE: "no relaxation", CUT_OFF: "no limit"}.get(outcome, "doubt"))
        program.keep(now)
        reach = reachable(first, lower, upper)
        ranks = program.ranks if self.mip else np.zeros_like(program.ranks)
        tree = Tree(first, now, ranks, lower, upper, *reach, self.mip and program.whole)
        return Search(tree, gap, MOST_NODES, self._left_s).run(None if start is None else program.integers_of(start))


@cache
def warm() -> None:
    """Load the compiled code, or compile it (once per installation, some 15 s), before a time limit runs."""
    problem = pulp.LpProblem("warm", pulp.LpMaximize)
    x, y = problem.add_variable("x", 0, 9, pulp.LpInteger), problem.add_variable("y", 0, 9)
    problem.setObjective(x + y)
    problem.addConstraint(2 * x + 3 * y <= 7.5)
    problem.addConstraint(x - y == 0.5)
    solver, program = OwnSolver(), Program(problem)
    solver._solve(problem, program, perf_counter())
    # What only later solves of a kept problem need: changed rows, an objective the other way round, errors cleared.
    row = problem.constraints()[0]
    row.expr[y], row.modified = 4.0, True
    problem.setObjective(-1 * x)
    program.refresh(problem)
    solver._solve(problem, program, perf_counter())
    renew(program.first, program.root)


def _start(program: Program) -> Floats:
    """Initial values of the integer variables, NaN where there is none."""
    given = [nan if v.varValue is None or not integer else round(v.varValue) for v, integer in _with_kind(program)]
    return np.array(given, dtype=np.float64)


def _with_kind(program: Program) -> list[tuple[Any, bool]]:
    return list(zip(program.variables, program.integer.tolist(), strict=True))


def _better(mine: Answer, theirs: Answer) -> Answer:
    """HiGHS's answer, unless it ended with less than was known."""
    worse = theirs.values is None or theirs.objective > mine.objective
    return mine if worse and theirs.outcome != "optimal" else theirs


def _report(program: Program, own: Result, answer: Answer, mine: bool) -> Report:
    """In the sense of the problem, with the constant of its objective."""
    objective, bound = (program.sign * value + program.offset for value in (answer.objective, answer.bound))
    return Report(answer.outcome, "own" if mine else "highs", own.outcome, answer.status, objective, bound, 0.0, own.nodes)


def _tell(lp: Any, program: Program, report: Report, values: Floats | None) -> int:
    """Write an answer where PuLP keeps it."""
    lp.report = report
    told = [None] * len(program.variables) if values is None else values.tolist()
    for variable, value in zip(program.variables, told, strict=True):
        variable.varValue = value
    status, solution = _STATUS[report.outcome]
    lp.assignStatus(status, solution)
    return int(status)
