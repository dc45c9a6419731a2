"""Solves a program: own branch and bound where it is fast and certain, HiGHS where there is doubt. Owns the choice between
the two, every check and the report; knows nothing of what a model means."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import nan
from time import perf_counter

import numpy as np
import pulp
from msgspec import Struct

from loki_rl.control.solver.branching import Search
from loki_rl.control.solver.highs import Answer, Outcome, solve_with_highs
from loki_rl.control.solver.program import Program, reachable
from loki_rl.control.solver.relaxation import Result, Tree, relaxed, root
from loki_rl.control.solver.simplex import CUT_OFF, INFEASIBLE, OPTIMAL, Floats, copy_of

# Beyond these HiGHS, which uses cuts, goes on.
MOST_NODES = 20_000
TOLERANCE = 1e-7


class Report(Struct):
    """What a solve found out. outcome: a solution at the time limit is `feasible`, never `optimal`.

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


def optimise(
    program: Program, integer: bool, time_limit_s: float, gap: float, start: Floats | None = None
) -> tuple[Report, Floats | None]:
    """Solve a program, integer off: its relaxation; with values by variable where there is a solution.

    Every own solution is checked against the problem as it was written and against its proven bound; every other answer is
    HiGHS's. The second solve of a program starts from the relaxation of the first. start: values of integer variables of a
    known solution (NaN: unknown, or continuous). Deterministic unless the time limit strikes.
    """
    warm()
    began = perf_counter()
    if start is not None:
        start = np.where(program.integer, np.round(start), nan)

    def left_s() -> float:
        return began + time_limit_s - perf_counter()

    own = _search(program, integer, gap, start, left_s)
    mine = _checked(program, integer, own)
    answer = mine or _ask_highs(program, integer, own, gap, start, left_s)
    if mine and mine.outcome == "feasible" and left_s() > 0:
        answer = _better(mine, solve_with_highs(program, left_s(), gap, integer, mine.values))
    report = _report(program, own, answer, answer is mine)
    report.seconds = perf_counter() - began
    return report, answer.values


def _checked(program: Program, integer: bool, own: Result) -> Answer | None:
    """An own solution inside every row and bound, worth what was said, and not better than what was proven."""
    if own.x is None or own.outcome not in ("optimal", "limit"):
        return None
    values, size = program.values(own.x, integer), max(1.0, abs(own.objective))
    same = abs(float(program.costs @ values) - own.objective) <= TOLERANCE * size
    if not same or own.bound > own.objective + TOLERANCE * size or program.miss(values) > TOLERANCE:
        return None
    outcome: Outcome = "optimal" if own.outcome == "optimal" else "feasible"
    return Answer(outcome, own.outcome.capitalize(), own.objective, own.bound, values)


def _ask_highs(
    program: Program, integer: bool, own: Result, gap: float, start: Floats | None, left_s: Callable[[], float]
) -> Answer:
    """Where not even the relaxation has a solution, it is enough to ask for that."""
    if own.outcome == "no relaxation":
        answer = solve_with_highs(program, left_s(), gap, integer=False)
        if answer.outcome == "infeasible":
            return answer
    return solve_with_highs(program, left_s(), gap, integer, start)


def _search(program: Program, integer: bool, gap: float, start: Floats | None, left_s: Callable[[], float]) -> Result:
    if not program.dense:
        return Result("none")
    lower, upper = program.bounds()
    if (lower > upper).any():
        return Result("no relaxation")
    costs = np.concatenate([program.costs, np.zeros(len(program.constraints))])[program.order]
    first = program.first._replace(costs=costs)
    now = copy_of(program.root)
    outcome = root(first, now, lower, upper)
    if outcome != OPTIMAL:
        return Result({INFEASIBLE: "no relaxation", CUT_OFF: "no limit"}.get(outcome, "doubt"))
    program.keep(now)
    if not integer:
        # Its bound prunes nothing.
        return relaxed(Tree(first, now, program.ranks, lower, upper, lower, upper))
    tree = Tree(first, now, program.ranks, lower, upper, *reachable(first, lower, upper))
    search = Search(tree, gap, program.whole, MOST_NODES, left_s)
    return search.run(None if start is None else program.integers_of(start))


@cache
def warm() -> None:
    """Load the compiled code, or compile it (once per installation, some 25 s), before a time limit runs."""
    problem = pulp.LpProblem("warm", pulp.LpMaximize)
    x, y = problem.add_variable("x", 0, 9, pulp.LpInteger), problem.add_variable("y", 0, 9)
    problem.setObjective(x + y)
    problem.addConstraint(2 * x + 3 * y <= 7.5)
    problem.addConstraint(x - y == 0.5)
    program = Program(problem)
    if program.dense:
        for costs in (program.costs, -program.costs):
            program.costs = costs
            _search(program, True, 1e-6, None, lambda: 1.0)
            _checked(program, False, _search(program, False, 1e-6, None, lambda: 1.0))
        # What only later solves need: changed rows, errors cleared.
        program.change(program.entries(0, [y]), np.array([4.0]))


def _better(mine: Answer, theirs: Answer) -> Answer:
    """HiGHS's answer, unless it ended with less than was known."""
    worse = theirs.values is None or theirs.objective > mine.objective
    return mine if worse and theirs.outcome != "optimal" else theirs


def _report(program: Program, own: Result, answer: Answer, mine: bool) -> Report:
    """In the sense of the problem, with the constant of its objective."""
    objective, bound = (program.sign * value + program.offset for value in (answer.objective, answer.bound))
    return Report(answer.outcome, "own" if mine else "highs", own.outcome, answer.status, objective, bound, 0.0, own.nodes)
