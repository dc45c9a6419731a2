"""A joint problem as what a search is made of: its relaxation and its fleets. Solves nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loki_rl.control.branch_and_price.master_problem import MasterProblem
from loki_rl.control.branch_and_price.pricing import PAYS, Relaxation, Terms
from loki_rl.control.branch_and_price.route_pricing import joined
from loki_rl.control.branch_and_price.search import Fleets


def relax(joint: MasterProblem, left_s: Callable[[], float], telling: bool = False) -> Relaxation:
    """The relaxation of a joint problem. telling: flows are wanted."""
    layout, parts = joint.layout, joint.parts
    prices = joint.pool_prices
    weight, nothing = np.array([part.weight for part in parts]), np.zeros(len(parts))
    terms = Terms(
        graph=joined([part.graph for part in parts], layout.start),
        ends=np.cumsum([0, *(len(part.graph.supply) for part in parts)]),
        servers=np.concatenate([part.servers for part in parts]),
        of=layout.of,
        by=np.ones(layout.of.shape),
        price=prices[layout.of[:, 0] - layout.pools[0]],
        units=layout.served[:, None],
        floor=layout.floor,
        least=layout.least,
        level=np.array([part.floor[0] for part in parts]),
        weight=weight,
        accurate=weight if joint.goal == "most accurate" else nothing,
        served=weight if joint.goal == "most served" else nothing,
        most=np.array([part.served[1] for part in parts]),
        missing=np.arange(len(parts)),
        lines=layout.lines,
        line_price=prices[layout.lines[:, 0] - layout.pools[0]],
        line_of=layout.line_of,
        closes=np.ones(layout.size, dtype=np.bool_),
        spare=float(sum(joint.limits)),
    )
    # Nothing that is possible is worth less than serving at no accuracy, or with all servers.
    worst = (1.0 if joint.goal == "least price" else 0.0) + PAYS
    longest = max(len(part.graph.supply) for part in parts) if telling else 0
    made = Relaxation(layout.size, terms, worst, left_s, longest)
    made.lower[layout.served], made.upper[layout.served] = np.array([part.served for part in parts]).T
    made.lower[layout.floor] = [part.floor[1] for part in parts]
    made.lower[layout.least] = joint.least
    made.upper[layout.pools] = joint.limits
    floors = [row for row, part in zip(layout.floor, parts, strict=True) if part.floor[1] > -1]
    made.bring([*layout.served, *floors, *([layout.least] if joint.least > -1 else []), *layout.pools])
    held = [layout.holding_of[key] for key in joint.holdings]
    made.hold(held)
    for row, bounds in zip(held, joint.holdings.values(), strict=True):
        made.lower[row], made.upper[row] = bounds
    return made


def fleets_of(joint: MasterProblem, step: float) -> Fleets:
    """The fleets of a joint problem."""
    layout = joint.layout
    integers = np.flatnonzero(layout.rank)
    held = [layout.holding_of[key] for key in joint.holdings]
    none = np.zeros(0, dtype=np.int64)
    return Fleets(
        integers=integers,
        rank=layout.rank[integers],
        counts=layout.counts,
        pool_of=layout.of[:, 0] - layout.pools[0],
        pools=layout.pools,
        limits=np.array(joint.limits, dtype=np.float64),
        prices=joint.pool_prices,
        held=np.array(held, dtype=np.int64),
        place=1,
        first=np.array([int(np.flatnonzero(layout.of[:, 1] == row)[0]) for row in held], dtype=np.int64),
        least=np.array([low for low, _ in joint.holdings.values()], dtype=np.float64),
        most=np.array([high for _, high in joint.holdings.values()], dtype=np.float64),
        served=layout.served,
        step=step,
        model_of=none,
        loads=none,
        there=np.zeros(0),
        load_price=np.zeros(0),
    )
