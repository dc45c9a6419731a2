"""What all policies may be told. Owns these options."""

from __future__ import annotations

from msgspec import Struct

from loki_rl.control.demand.estimators import FLOOR_RPS
from loki_rl.control.formulation.request import Queueing, Solver
from loki_rl.core.servers.server_type import ServerType


class PolicyOptions(Struct, frozen=True):
    """What all policies may be told.

    servers: size of the cluster. slo_s, min_accuracy, time_limit_s: as in `Request`. queueing, headroom: the policy's own
    choice if None. demand_rps: the demand that a fixed plan is made for. initial_rps: expected before anything was counted.
    load_s: time to load a model [s], the variants' own if None. future: requests in every second from the origin on, where a
    trace is replayed; `clairvoyant` alone looks at it. model: file of a trained agent (`learned`, `ppo`). pool, solver: as
    in `Request`. caution: how much is paid for room for crowds that were never seen here, times what they are likely to
    cost. history: file of what demand was like before (`exact`). clock_s: at time 0 [s, see demand.seasonality]. interval_s:
    between plans [s]; an agent is for one alone.
    """

    servers: int
    slo_s: float | None = None
    min_accuracy: float = 0.0
    queueing: Queueing | None = None
    headroom: float | None = None
    demand_rps: float | None = None
    initial_rps: float | None = None
    load_s: float | None = None
    time_limit_s: float = 2.0
    future: tuple[int, ...] = ()
    model: str | None = None
    caution: float = 1.0
    history: str | None = None
    clock_s: float = 0.0
    pool: tuple[ServerType, ...] = ()
    solver: Solver = "search"
    interval_s: float = 10.0

    @property
    def expected_rps(self) -> float:
        """Demand while nothing is known."""
        return next((rps for rps in (self.initial_rps, self.demand_rps) if rps), FLOOR_RPS)
