"""What a solver found out."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# Plans are proven to 1e-6; the rest of it is for what later phases, fixed points and the flow's own solve give up.
GAP = 7e-7

Outcome = Literal["optimal", "infeasible", "unbounded", "feasible", "unknown"]


class Solved(Struct):
    """outcome: optimal (within the gap), infeasible (proven), unbounded, feasible (an incumbent at the limit) or unknown.

    status: the solver's own word. objective, bound: in the sense of the model. values: by the variable's name, where it is
    written down. solver: who says so, the own search or HiGHS.
    """

    outcome: Outcome
    status: str
    objective: float
    bound: float
    seconds: float
    values: dict[str, float] = {}
    solver: str = "search"

    @property
    def found(self) -> bool:
        return self.outcome in ("optimal", "feasible")
