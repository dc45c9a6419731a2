"""Runs HiGHS on a PuLP model and reports what HiGHS itself says. Owns options, starts and the true status; knows nothing of
what a model means."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Literal

import highspy
import pulp
from msgspec import Struct

# "threads" is process-wide in HiGHS: a second value would refuse every later solve. The models are small and tight, so
# quick nodes beat presolve, heuristics and cuts.
OPTIONS: dict[str, bool | int | float | str] = {
    "threads": 1,
    "presolve": "off",
    "mip_heuristic_effort": 0.0,
    "mip_heuristic_run_rins": False,
    "mip_heuristic_run_rens": False,
    "mip_heuristic_run_root_reduced_cost": False,
    "mip_heuristic_run_feasibility_jump": False,
    "mip_detect_symmetry": False,
    "mip_allow_restart": False,
    "mip_allow_cut_separation_at_nodes": False,
    "mip_pscost_minreliable": 0,
}
GAP = 1e-6
FEASIBLE = 2

Outcome = Literal["optimal", "infeasible", "feasible", "unknown"]


class _Silent(highspy.Highs):
    """HiGHS prints its banner while it is constructed, before any option can be set; standard output belongs to --json."""

    def enableCallbacks(self) -> None:  # noqa: N802  (HiGHS's name)
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


class Solved(Struct):
    """outcome: optimal (within the gap), infeasible (proven), feasible (an incumbent at the time limit) or unknown.

    status: the solver's own word. objective, bound: in the sense of the model. values: by the variable's name.
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
    """Solve a PuLP problem with HiGHS in this process, one thread.

    PuLP calls a time-limited answer "Optimal" and an infeasible one 0.0, so status, bound and gap are read from HiGHS.
    start: values of all or some integer variables of a known plan. Deterministic unless the time limit strikes.
    """
    began = perf_counter()
    highs = problem.solverModel = _Silent()  # type: ignore[no-untyped-call]
    for name, value in (*OPTIONS.items(), ("mip_rel_gap", gap), ("time_limit", max(0.01, time_limit_s))):
        highs.setOptionValue(name, value)
    pulp.HiGHS(msg=False).buildSolverModel(problem)
    if start:
        _give_start(problem, highs, start)
    highs.run()
    return _read(problem, highs, perf_counter() - began)


def _give_start(problem: Any, highs: Any, start: dict[str, float]) -> None:
    named = [(var.index, start[var.name]) for var in problem.variables() if var.name in start]
    highs.setSolution(len(named), [index for index, _ in named], [value for _, value in named])


def _read(problem: Any, highs: Any, seconds: float) -> Solved:
    status, info = highs.getModelStatus(), highs.getInfo()
    mip = any(var.cat == pulp.LpInteger for var in problem.variables())
    found = info.primal_solution_status == FEASIBLE
    sign = -1.0 if problem.sense == pulp.LpMaximize else 1.0
    objective = sign * info.objective_function_value if found else float("nan")
    bound = sign * info.mip_dual_bound if mip else objective
    columns = highs.getSolution().col_value if found else []
    values = {var.name: columns[var.index] for var in problem.variables()} if found else {}
    return Solved(_outcome(status, found), highs.modelStatusToString(status), objective, bound, seconds, values)


def _outcome(status: Any, found: bool) -> Outcome:
    word = highspy.HighsModelStatus
    if status == word.kOptimal:
        return "optimal"
    if status in (word.kInfeasible, word.kUnboundedOrInfeasible):
        return "infeasible"
    return "feasible" if found else "unknown"
