"""Plans over a range of demands in one call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan
from loki_rl.progress import Progress, unseen


def ladder(pipeline: Pipeline, request: Request, demands: Sequence[float], progress: Progress = unseen) -> list[Plan]:
    """The optimal plan for every demand [1/s], in the order given; the rest of the request stays as it is.

    A level begins with the servers of the next higher one, which serve it as well. So mode, servers, and what is served how
    accurately are those of `allocate`, but of several equally good plans it may be another one.
    """
    plans: dict[float, Plan] = {}
    ordered = sorted(set(demands))

    def plan(demand: float, known: Plan | None = None) -> Plan:
        plans[demand] = allocate(pipeline, replace(request, demand_rps=demand), known)
        progress(len(plans) / len(ordered))
        return plans[demand]

    # Upwards until the best variants do not suffice: of what is too much for them all that is more need not be asked.
    low = list(takewhile(lambda demand: plan(demand).mode == "hardware", ordered))
    known = None
    for demand in reversed(ordered[len(low) + 1 :]):
        known = plan(demand, known)
    return [plans[demand] for demand in demands]
