"""HiGHS in this process, on arrays. Owns its options and the true status; knows no PuLP and not what a model means."""

from __future__ import annotations

from typing import Any, Literal

import highspy
import numpy as np
from msgspec import Struct

from loki_rl.control.solver.program import Program
from loki_rl.control.solver.simplex import Floats

Options = dict[str, bool | int | float | str]

# It is process-wide in HiGHS: a second value would refuse every later solve.
ALWAYS: Options = {"threads": 1}
# Small models are tight, so quick nodes beat presolve, heuristics and cuts; large ones need them. And presolve may end with
# "unbounded or infeasible".
SMALL: Options = {
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
FEASIBLE = 2

Outcome = Literal["optimal", "infeasible", "unbounded", "feasible", "unknown"]


class _Silent(highspy.Highs):
    """HiGHS prints its banner while it is constructed, before any option can be set; standard output belongs to --json."""

    def enableCallbacks(self) -> None:  # noqa: N802  (HiGHS's name)
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


def silent() -> Any:
    """HiGHS that prints nothing."""
    return _Silent()  # type: ignore[no-untyped-call]


def outcome_of(status: Any, found: bool) -> Outcome:
    """found: whether there is a solution."""
    word = highspy.HighsModelStatus
    outcomes: dict[Any, Outcome] = {word.kOptimal: "optimal", word.kInfeasible: "infeasible", word.kUnbounded: "unbounded"}
    return outcomes.get(status, "feasible" if found else "unknown")


class Answer(Struct):
    """outcome: optimal, infeasible, unbounded, feasible (an incumbent at the limit) or unknown. status: HiGHS's own word.

    objective, bound: of the minimisation, without offset. values: of the problem's variables, if any.
    """

    outcome: Outcome
    status: str
    objective: float
    bound: float
    values: Floats | None


def solve_with_highs(
    program: Program, time_limit_s: float, gap: float, integer: bool = True, start: Floats | None = None
) -> Answer:
    """Solve a program; integer off: its relaxation. start: values of variables of a known solution (NaN: unknown).

    Deterministic unless the time limit strikes.
    """
    highs = silent()
    limits: Options = {"mip_rel_gap": gap, "time_limit": max(0.01, time_limit_s)}
    for name, value in (ALWAYS | limits | (SMALL if program.small else {})).items():
        highs.setOptionValue(name, value)
    mip = integer and bool(program.integer.any())
    highs.passModel(_model(program, mip))
    if start is not None:
        known = np.flatnonzero(~np.isnan(start)).astype(np.int32)
        highs.setSolution(len(known), known, start[known])
    highs.run()
    return _read(highs, mip)


def _model(program: Program, mip: bool) -> Any:
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(program.variables), len(program.constraints)
    model.col_cost_, model.col_lower_, model.col_upper_ = program.costs, program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.searchsorted(program.row, np.arange(model.num_row_ + 1)).astype(np.int32)
    model.a_matrix_.index_, model.a_matrix_.value_ = program.column.astype(np.int32), program.value
    if mip:
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        model.integrality_ = [kinds[flag] for flag in program.integer.astype(int)]
    return model


def _read(highs: Any, mip: bool) -> Answer:
    status, info = highs.getModelStatus(), highs.getInfo()
    found = info.primal_solution_status == FEASIBLE
    objective = info.objective_function_value if found else float("nan")
    values = np.array(highs.getSolution().col_value) if found else None
    return Answer(
        outcome_of(status, found),
        highs.modelStatusToString(status),
        objective,
        info.mip_dual_bound if mip else objective,
        values,
    )
