"""HiGHS through PuLP: its own word about the end, in the sense of the problem."""

from __future__ import annotations

from typing import Any

import pulp
import pytest

from loki_rl.control.solver.pulp_highs import solve_written


def knapsack(size: int = 12) -> Any:
    """Has many solutions and a relaxation that is better than all of them."""
    problem = pulp.LpProblem("knapsack", pulp.LpMaximize)
    columns = [problem.add_variable(f"x{i:02d}", 0, 3, pulp.LpInteger) for i in range(size)]
    problem.setObjective(pulp.lpSum((7 + 3 * i % 11) * x for i, x in enumerate(columns)) + 5)
    problem.addConstraint(pulp.lpSum((11 + 5 * i % 13) * x for i, x in enumerate(columns)) <= 97.5)
    problem.addConstraint(pulp.lpSum((5 + 7 * i % 12) * x for i, x in enumerate(columns)) <= 71.5)
    return problem


def test_an_optimum_is_proven_and_told() -> None:
    whole, split = solve_written(knapsack(), 60.0), solve_written(knapsack(), 60.0, integer=False)
    assert (whole.outcome, whole.status) == ("optimal", "Optimal")
    told = sum((7 + 3 * i % 11) * whole.values[f"x{i:02d}"] for i in range(12)) + 5
    assert whole.objective == pytest.approx(told)
    assert whole.bound == pytest.approx(whole.objective, rel=1e-6)
    assert split.objective == split.bound > whole.objective


def test_no_solution_and_no_limit_are_told_apart() -> None:
    problem = knapsack()
    problem.addConstraint(pulp.lpSum(problem.variables()) >= 1000)
    assert solve_written(problem, 60.0).outcome == "infeasible"
    assert solve_written(problem, 60.0, integer=False).outcome == "infeasible"
    endless = pulp.LpProblem("endless", pulp.LpMaximize)
    endless.setObjective(endless.add_variable("x", 0) * 1.0)
    endless.addConstraint(pulp.lpSum(endless.variables()) >= 1)
    assert solve_written(endless, 60.0).outcome == "unbounded"


def test_time_that_is_over_is_no_optimum() -> None:
    solved = solve_written(knapsack(400), 0.0)
    assert solved.outcome in ("feasible", "unknown", "optimal")
    assert solved.outcome == "optimal" or solved.status != "Optimal"
    assert not solved.found or solved.bound >= solved.objective - 1e-6
