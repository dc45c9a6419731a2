"""A PuLP problem as it is written, solved by HiGHS through PuLP: what is said to be true of a model, slowly."""

from __future__ import annotations

from math import nan
from time import perf_counter
from typing import Any

import highspy
import pulp

from loki_rl.control.solver.solve import GAP, Outcome, Solved

FEASIBLE = 2
# Small models are tight, so quick nodes beat presolve, heuristics and cuts; large ones need them.
SMALL: dict[str, Any] = {
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
# Rows x columns.
LARGEST_SMALL = 200_000


class _Silent(highspy.Highs):
    """HiGHS prints its banner while it is constructed, before any option can be set; standard output belongs to --json."""

    def enableCallbacks(self) -> None:  # noqa: N802  (HiGHS's name)
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


class _Solver(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's, but for the banner."""

    def createAndConfigureSolver(self, lp: Any) -> None:  # noqa: N802  (PuLP's name)
        lp.solverModel = _Silent()  # type: ignore[no-untyped-call]
        # Threads are process-wide in HiGHS: a second value would refuse every later solve.
        limits = {"threads": 1, "mip_rel_gap": self.gapRel, "time_limit": float(self.timeLimit)}
        small = SMALL if lp.numConstraints() * lp.numVariables() <= LARGEST_SMALL else {}
        for name, value in (limits | small).items():
            lp.solverModel.setOptionValue(name, value)


def solve_written(problem: Any, time_limit_s: float, gap: float = GAP, integer: bool = True) -> Solved:
    """Solve a PuLP problem, one thread; integer off: its relaxation. Deterministic unless the time limit strikes.

    The status is HiGHS's own word: PuLP calls what was found at the time limit optimal.
    """
    began = perf_counter()
    problem.solve(_Solver(mip=integer, msg=False, gapRel=gap, timeLimit=max(0.01, time_limit_s)))
    highs = problem.solverModel
    if highs.getModelStatus() == highspy.HighsModelStatus.kUnboundedOrInfeasible:
        # Presolve cannot tell which; the simplex can.
        highs.setOptionValue("presolve", "off")
        highs.run()
    status, info = highs.getModelStatus(), highs.getInfo()
    found = info.primal_solution_status == FEASIBLE
    sign, offset = _in_its_sense(problem)
    objective = sign * info.objective_function_value + offset if found else nan
    variables = problem.exported_variables() if hasattr(problem, "exported_variables") else problem.variables()
    mip = integer and any(variable.cat == pulp.LpInteger for variable in variables)
    bound = sign * info.mip_dual_bound + offset if mip else objective
    names = [variable.name for variable in variables]
    values = dict(zip(names, highs.getSolution().col_value, strict=True)) if found else {}
    return Solved(
        _outcome(status, found), highs.modelStatusToString(status), objective, bound, perf_counter() - began, values, "HiGHS"
    )


def _in_its_sense(problem: Any) -> tuple[float, float]:
    """Sign and offset that make HiGHS's objective the problem's: PuLP 3 hands over a minimisation without the constant, PuLP
    4 the problem as it is."""
    lp = problem.solverModel.getLp()
    turned = problem.sense == pulp.LpMaximize and lp.sense_ != highspy.ObjSense.kMaximize
    sign = -1.0 if turned else 1.0
    return sign, problem.objective.constant - sign * lp.offset_


def _outcome(status: Any, found: bool) -> Outcome:
    word = highspy.HighsModelStatus
    outcomes: dict[Any, Outcome] = {word.kOptimal: "optimal", word.kInfeasible: "infeasible", word.kUnbounded: "unbounded"}
    return outcomes.get(status, "feasible" if found else "unknown")
