"""Policies: from what a controller observes to the plan it should follow. Owns which demand is asked of the allocator and
how; knows neither clock nor how plans are carried out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from math import ceil
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.allocator import allocate
from loki_rl.control.demand import FLOOR_RPS, envelope, ewma, likely
from loki_rl.control.measured import as_measured
from loki_rl.control.reasons import highest_floor, servable
from loki_rl.control.request import Queueing, Request, RequestError, check
from loki_rl.control.reserve import Demand, Reserve
from loki_rl.control.reserve import warm as warm_reserve
from loki_rl.control.solver import warm as warm_solver
from loki_rl.core.controller import HISTORY_S
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift, Exclusion, Plan, Server, Snapshot
from loki_rl.core.server_type import ServerType, as_run_by, types_of


class PolicyOptions(Struct, frozen=True):
    """What all policies may be told.

    servers: size of the cluster. slo_s, min_accuracy, time_limit_s: as in Request. queueing, headroom: the policy's own
    choice if None. demand_rps: the demand that a fixed plan is made for. initial_rps: expected before anything was
    counted. load_s: time to load a model [s], the variants' own if None. patience: control intervals a plan should last.
    future: requests in every second from the origin on, where a trace is replayed; `clairvoyant` alone looks at it.
    model: file of a trained agent (`ppo`), by default the one shipped for the pipeline. shadow: what it would adjust is only
    written down. pool: types of the servers, as in Request.
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
    patience: float = 2.0
    future: tuple[int, ...] = ()
    model: str | None = None
    shadow: bool = False
    pool: tuple[ServerType, ...] = ()

    @property
    def expected_rps(self) -> float:
        """Demand while nothing is known."""
        return next((rps for rps in (self.initial_rps, self.demand_rps) if rps), FLOOR_RPS)


class Policy(Protocol):
    """Decides what the cluster should run. Equal snapshots in equal order give equal plans."""

    def decide(self, snapshot: Snapshot) -> Plan:
        """The plan to follow from now on; never raises for a legal snapshot."""


class Planner:
    """Asks the allocator on behalf of one policy. pipeline, pool: as profiled, or as service has shown them to be."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions, queueing: Queueing, headroom: float) -> None:
        # Now, not while a cluster waits for the first plan.
        warm_solver()
        warm_reserve()
        self.pipeline, self.options, self.pool = pipeline, options, options.pool
        self._profiled = pipeline
        self._known: tuple[tuple[Drift, ...], tuple[Exclusion, ...]] = ((), ())
        self._reserve: Reserve | None = None
        self._queueing = options.queueing or queueing
        self._headroom = headroom if options.headroom is None else options.headroom
        check(self.request(FLOOR_RPS))

    def learn(self, snapshot: Snapshot, keeping: bool = False) -> bool:
        """From now on plan with what was measured and without what cannot be loaded; whether that is something new.

        keeping: for requests with `current` and `unloadable`: then a model that some server has stays, since that one needs
        no load to go on. Requests without would ask for more servers of it, so they do without the model altogether. Where
        nothing could be served without what is excluded, it is planned with as before.
        """
        gone = tuple(one for one in snapshot.exclusions if not (keeping and _somewhere(one, snapshot.servers)))
        if (snapshot.drift, gone) == self._known:
            return False
        self._known, self._reserve = (snapshot.drift, gone), None
        self.pipeline, self.pool = as_measured(self._profiled, self.options.pool, snapshot.drift, gone)
        if gone and not servable(self.pipeline, self.request(FLOOR_RPS)):
            self.pipeline, self.pool = as_measured(self._profiled, self.options.pool, snapshot.drift)
        return True

    @property
    def reserve(self) -> Reserve:
        """Made with the first plan: a policy that is only checked should cost nothing."""
        if self._reserve is None:
            self._reserve = Reserve(self.pipeline, self.request(FLOOR_RPS))
        return self._reserve

    def request(self, demand_rps: float, min_accuracy: float | None = None, there: Sequence[Server] = ()) -> Request:
        """there: the servers that are there; without any, those that there should be."""
        options = self.options
        return Request(
            demand_rps=max(demand_rps, FLOOR_RPS),
            servers=len(there) or options.servers,
            slo_s=options.slo_s,
            min_accuracy=options.min_accuracy if min_accuracy is None else min_accuracy,
            headroom=self._headroom,
            queueing=self._queueing,
            time_limit_s=options.time_limit_s,
            pool=counted(self.pool, there) if there else self.pool,
        )

    @property
    def load_s(self) -> float:
        """Longest time to load a model [s]."""
        if self.options.load_s is not None:
            return self.options.load_s
        by_type = [as_run_by(self.pipeline, kind) for kind in types_of(self.options.pool, self.options.servers)]
        return max(variant.load_s for one in by_type for task in one.tasks for variant in task.variants)

    def estimate(self, arrivals: Sequence[int], estimator: Callable[[Sequence[int]], float]) -> float:
        """What the estimator says [1/s], or the expected demand before the first whole second."""
        return estimator(arrivals) if arrivals else self.options.expected_rps


def _somewhere(one: Exclusion, servers: Sequence[Server]) -> bool:
    """Whether a server of that type has the model, or will have it from a load under way."""
    model = one.task, one.variant
    return any(
        model in ((server.serving or ())[:2], (server.loading or ())[:2], *server.resident)
        for server in servers
        if server.server_type == one.server_type
    )


def counted(pool: Sequence[ServerType], there: Sequence[Server]) -> tuple[ServerType, ...]:
    """The types with as many servers of each as are there: some may be lost."""
    counts = Counter(server.server_type for server in there)
    return tuple(replace(kind, count=counts[kind.name]) for kind in pool)


class Static:
    """One plan, made for the expected demand and held, also where service turns out to be other than profiled; another one
    only while a model cannot be loaded."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._demand_rps = options.demand_rps or options.expected_rps
        self._plan = self._made()

    def decide(self, snapshot: Snapshot) -> Plan:
        if self._planner.learn(replace(snapshot, drift=())):
            self._plan = self._made()
        return self._plan

    def _made(self) -> Plan:
        return allocate(self._planner.pipeline, self._planner.request(self._demand_rps))


class Hardware:
    """Hardware scaling alone, as InferLine (SoCC'20): only the most accurate variants that fit the SLO, replicas for the
    busiest recent seconds; beyond the cluster it serves the largest share it can."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)
        self._floor: float | None = None

    def decide(self, snapshot: Snapshot) -> Plan:
        if self._planner.learn(snapshot) or self._floor is None:
            self._floor = highest_floor(self._planner.pipeline, self._planner.request(FLOOR_RPS))
        demand = self._planner.estimate(snapshot.arrivals, envelope)
        return allocate(self._planner.pipeline, self._planner.request(demand, self._floor, snapshot.servers))


class Loki:
    """Loki as published (HPDC'24): smoothed demand to the plain optimum, medians in half the SLO, 5 % over-provisioning."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "half-slo", 0.05)

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot)
        demand = self._planner.estimate(snapshot.arrivals, ewma)
        return allocate(self._planner.pipeline, self._planner.request(demand, there=snapshot.servers))


class Exact:
    """The switch-aware allocator on the demand that is worth having capacity for until the plan after this one is loaded:
    what loading models would cost on the way counts beside what the plan is worth after."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        self._planner = Planner(pipeline, options, "tail", 0.0)

    def decide(self, snapshot: Snapshot) -> Plan:
        self._planner.learn(snapshot, keeping=True)
        return allocate(self._planner.pipeline, self._request(snapshot, self._demand(snapshot)))

    def _lead_s(self, snapshot: Snapshot) -> float:
        """Time until the models of the next plan are loaded [s]: so long this one must do."""
        return snapshot.interval_s + self._planner.load_s

    def _demand(self, snapshot: Snapshot) -> Demand:
        arrivals, lead_s = snapshot.arrivals, self._lead_s(snapshot)
        expected = self._planner.estimate(arrivals, lambda counts: likely(counts, lead_s))
        return self._planner.reserve.after(arrivals, expected, lead_s)

    def _request(self, snapshot: Snapshot, demand: Demand) -> Request:
        options = self._planner.options
        return replace(
            self._planner.request(demand.high_rps, there=snapshot.servers),
            expected_rps=demand.expected_rps,
            chance=demand.chance,
            current=snapshot.servers,
            horizon_s=options.patience * snapshot.interval_s,
            load_s=options.load_s,
            unloadable=snapshot.exclusions,
        )


class Clairvoyant(Exact):
    """The switch-aware allocator on the demand that will really come within the lead: what foresight is worth to it. It
    is no bound: it still plans one step at a time, and counts per second do not show what is inside of them."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        super().__init__(pipeline, options)
        if not options.future:
            raise RequestError(
                "policy 'clairvoyant' plans for demand known beforehand, as only a trace that is replayed can be; use it "
                "with simulate or compare, and 'exact' where demand is still to come"
            )
        self._future = options.future
        self._origin = 0.0

    def _demand(self, snapshot: Snapshot) -> Demand:
        second = self._second(snapshot)
        coming = self._future[second : second + ceil(self._lead_s(snapshot))]
        return self._planner.reserve.knowing(coming or self._future[-1:])

    def _second(self, snapshot: Snapshot) -> int:
        """Where in the trace we are. Counts begin at its origin, and are forgotten only after a while."""
        if len(snapshot.arrivals) < HISTORY_S:
            self._origin = snapshot.now - snapshot.age_s - len(snapshot.arrivals)
        return round(snapshot.now - self._origin) if snapshot.arrivals else 0


def _proteus(pipeline: Pipeline, options: PolicyOptions) -> Policy:
    from loki_rl.control.proteus import Proteus

    return Proteus(pipeline, options)


def _forecast(pipeline: Pipeline, options: PolicyOptions) -> Policy:
    from loki_rl.control.adjusted import Forecasting

    return Forecasting(pipeline, options)


def _ppo(pipeline: Pipeline, options: PolicyOptions) -> Policy:
    from loki_rl.control.adjusted import Adjusting

    return Adjusting(pipeline, options)


POLICIES: dict[str, Callable[[Pipeline, PolicyOptions], Policy]] = {
    "static": Static,
    "hardware": Hardware,
    "proteus": _proteus,
    "loki": Loki,
    "exact": Exact,
    "clairvoyant": Clairvoyant,
    "forecast": _forecast,
    "ppo": _ppo,
}


# Made for, or trained on, servers that are alike.
ALIKE = {"proteus", "ppo"}


def make_policy(name: str, pipeline: Pipeline, options: PolicyOptions) -> Policy:
    """The policy of that name. Raises RequestError for a name that does not exist, naming the nearest that does, and for one
    that knows no types of servers where there are some."""
    if name not in POLICIES:
        near = get_close_matches(name, POLICIES, n=1, cutoff=0.0)
        raise RequestError(f"there is no policy '{name}'; did you mean '{near[0]}'? ({', '.join(POLICIES)})")
    if options.pool and name in ALIKE:
        others = ", ".join(one for one in POLICIES if one not in ALIKE)
        raise RequestError(f"policy '{name}' plans for servers of one type; take one of {others}")
    return POLICIES[name](pipeline, options)
