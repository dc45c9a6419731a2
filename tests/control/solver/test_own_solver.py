"""The own solver: agrees with HiGHS on every problem, and never lets an error of its own out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pulp
import pytest

from loki_rl.control.solver import own_solver
from loki_rl.control.solver.branching import Search
from loki_rl.control.solver.highs import solve_with_highs
from loki_rl.control.solver.own_solver import Report, optimise
from loki_rl.control.solver.program import Program, reachable
from loki_rl.control.solver.relaxation import Result
from loki_rl.control.solver.simplex import Floats, copy_of, safe_bound
from tests.control.instances import as_problem, plain, requests, small_pipeline, watch

CLOSE = 2e-6
ROOT = Path(__file__).parents[3]


def solved(problem: Any) -> tuple[Report, Floats | None]:
    return optimise(Program(problem), True, 60.0, 1e-6)


def agrees(problem: Any, start: dict[str, float] | None = None) -> str:
    """What the own search says of a problem, which must be what HiGHS says."""
    program = Program(problem)
    known = None if start is None else np.array([start.get(name, nan) for name in program.names])
    report, _ = optimise(program, True, 60.0, 1e-6, known)
    answer = solve_with_highs(program, 60.0, 1e-6)
    own = {"no relaxation": "infeasible"}.get(report.own, report.own)
    if own in ("optimal", "infeasible"):
        assert own == answer.outcome, problem
    if own == "optimal":
        assert report.solver == "own", problem
        theirs = program.sign * answer.objective + program.offset
        assert report.objective == pytest.approx(theirs, rel=CLOSE, abs=CLOSE), problem
    return str(own)


@pytest.fixture(params=range(12))
def problems(request: pytest.FixtureRequest) -> Iterator[Any]:
    rng = np.random.default_rng(request.param)
    return (plain(rng) for _ in range(30))


def test_agrees_on_plain_problems(problems: Iterator[Any]) -> None:
    said = [agrees(problem) for problem in problems]
    assert said.count("doubt") <= 1
    assert {"optimal", "infeasible"} <= set(said)


@pytest.mark.parametrize("seed", range(8))
def test_agrees_on_the_problems_of_allocations(seed: int) -> None:
    rng, said = np.random.default_rng(seed), []
    pipeline = small_pipeline(rng)
    for request in requests(rng, pipeline, int(rng.integers(2, 9))):
        watch(pipeline, request, lambda problem, start: said.append(agrees(problem, start)))
    assert said.count("doubt") <= len(said) / 20


@pytest.mark.parametrize("seed", range(40))
def test_a_second_solve_sees_changed_bounds_sides_objective_and_rows(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    program = Program(plain(rng))
    optimise(program, True, 60.0, 1e-6)
    for _ in range(3):
        _change(program, rng)
        again, _ = optimise(program, True, 60.0, 1e-6)
        afresh, _ = optimise(Program(as_problem(program)), True, 60.0, 1e-6)
        assert again.outcome == afresh.outcome
        if again.outcome == "optimal":
            assert again.objective == pytest.approx(afresh.objective, rel=CLOSE, abs=CLOSE)


def _change(program: Program, rng: np.random.Generator) -> None:
    program.upper[:] = np.floor(np.where(program.lower > -np.inf, program.lower, 0) + rng.integers(0, 9, len(program.upper)))
    for row in np.flatnonzero(~program.equal):
        side = float(rng.integers(-6, 20))
        if rng.random() < 0.5:
            program.row_lower[row], program.row_upper[row] = (side, inf) if program.row_upper[row] == inf else (-inf, side)
        elif program.begin[row] < program.begin[row + 1]:
            program.change(program.begin[row : row + 1], rng.integers(1, 6, 1).astype(float))
    program.costs = rng.integers(-5, 6, len(program.costs)).astype(float)


def test_equal_problems_give_equal_answers() -> None:
    answers = []
    for _ in range(2):
        rng = np.random.default_rng(5)
        for _ in range(40):
            report, values = solved(plain(rng))
            answers.append((report.nodes, None if values is None else values.tolist()))
    assert answers[:40] == answers[40:]


def knapsack(size: int = 12) -> Any:
    """Has many solutions and a relaxation that is better than all of them."""
    problem = pulp.LpProblem("knapsack", pulp.LpMaximize)
    columns = [problem.add_variable(f"x{i:02d}", 0, 3, pulp.LpInteger) for i in range(size)]
    problem.setObjective(pulp.lpSum((7 + 3 * i % 11) * x for i, x in enumerate(columns)))
    problem.addConstraint(pulp.lpSum((11 + 5 * i % 13) * x for i, x in enumerate(columns)) <= 97.5)
    problem.addConstraint(pulp.lpSum((5 + 7 * i % 12) * x for i, x in enumerate(columns)) <= 71.5)
    return problem


def test_without_time_a_known_solution_comes_back_with_an_honest_bound() -> None:
    program = Program(knapsack())
    (best, _), (report, values) = solved(knapsack()), optimise(program, True, 0.0, 1e-6, np.zeros(len(program.names)))
    assert report.outcome == "feasible"
    assert values is not None
    assert report.objective <= best.objective <= report.bound


def test_beyond_its_nodes_highs_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    best, _ = solved(knapsack())
    monkeypatch.setattr(own_solver, "MOST_NODES", 3)
    report, _ = solved(knapsack())
    assert (report.own, report.solver, report.outcome) == ("limit", "highs", "optimal")
    assert report.objective == pytest.approx(best.objective)


@pytest.mark.parametrize("wrong", ["outside a row", "not as good as said", "better than proven"])
def test_a_wrong_solution_is_replaced(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    right, _ = solved(knapsack())
    search = Search.run

    def run(self: Search, start: Any = None) -> Result:
        result = search(self, start)
        assert result.x is not None
        if wrong == "outside a row":
            result.x = result.x + 1.0
            result.objective = float(self.tree.first.costs @ result.x)
        elif wrong == "not as good as said":
            result.objective -= 1.0
        else:
            result.bound = result.objective + 1.0
        return result

    monkeypatch.setattr(Search, "run", run)
    report, _ = solved(knapsack())
    assert report.solver == "highs"
    assert report.objective == pytest.approx(right.objective)


@pytest.mark.parametrize("said", ["no relaxation", "infeasible", "doubt", "no limit", "none"])
def test_only_highs_says_that_there_is_no_solution(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(own_solver, "_search", lambda *_: Result(said))
    report, _ = solved(knapsack())
    assert report.outcome == "optimal"
    assert report.solver == "highs"


@pytest.mark.parametrize("seed", range(20))
def test_a_bound_holds_whatever_the_dictionary_says(seed: int) -> None:
    """Multipliers may be anything: the bound is then weak, never wrong."""
    rng = np.random.default_rng(seed)
    program = Program(knapsack(6))
    best, _ = optimise(program, True, 60.0, 1e-6)
    lower, upper = program.bounds()
    costs = np.concatenate([program.costs, np.zeros(len(program.constraints))])[program.order]
    first, now = program.first._replace(costs=costs), copy_of(program.root)
    now.slopes[:] += rng.normal(0, 1, len(now.slopes))
    now.table[:] += rng.normal(0, 1, now.table.shape)
    reach = reachable(first, lower, upper)
    assert safe_bound(first, now, -1, *reach) <= -best.objective + CLOSE
    for row in range(len(now.basic)):
        assert safe_bound(first, now, row, *reach) <= CLOSE


def test_the_relaxation_of_an_integer_problem() -> None:
    report, values = optimise(Program(knapsack()), False, 60.0, 1e-6)
    assert values is not None
    assert (values != np.round(values)).any()
    assert report.objective == pytest.approx(report.bound)


WARMED = """
import numpy as np
from loki_rl.control.solver import branching, program, relaxation, simplex
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.solver.solve import warm
from tests.control.instances import requests, small_pipeline
def compiled():
    functions = [f for module in (simplex, relaxation, branching, program) for f in vars(module).values()]
    return [(f.__name__, f.signatures) for f in functions if hasattr(f, "signatures")]
warm()
before = compiled()
rng = np.random.default_rng(11)
for _ in range(6):
    pipeline = small_pipeline(rng)
    for request in requests(rng, pipeline, 6):
        allocate(pipeline, request)
assert before
assert compiled() == before
"""


def test_all_is_compiled_before_the_first_plan() -> None:
    pytest.importorskip("numba")
    subprocess.run([sys.executable, "-c", WARMED], cwd=ROOT, check=True)


WITHOUT_NUMBA = """
import sys
import numpy as np
if sys.argv[1] == "without":
    sys.modules["numba"] = None
from loki_rl.control.compiled import njit
from loki_rl.control.solver.own_solver import optimise
from loki_rl.control.solver.program import Program
from tests.control.instances import plain
assert (njit is None) == (sys.argv[1] == "without")
rng = np.random.default_rng(3)
for _ in range(25):
    report, _ = optimise(Program(plain(rng)), True, 60.0, 1e-6)
    print(report.outcome, round(report.objective, 5) + 0.0 if report.outcome == "optimal" else None)
"""


def test_numba_changes_the_time_only() -> None:
    pytest.importorskip("numba")
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    said = [run([sys.executable, "-c", WITHOUT_NUMBA, kind]).stdout for kind in ("with", "without")]
    assert said[0] == said[1]
    assert "optimal" in said[0]
