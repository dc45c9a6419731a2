"""What policies ask the allocator with: the pipeline as it is known to be, the request, the demand to have room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from loki_rl.control.allocator.allocate import capacity
from loki_rl.control.allocator.implicit_model import warm as warm_solver
from loki_rl.control.allocator.reasons import servable
from loki_rl.control.demand.belief import Belief, Coming
from loki_rl.control.demand.belief import warm as warm_belief
from loki_rl.control.demand.estimators import FLOOR_RPS
from loki_rl.control.formulation.drifted import as_measured
from loki_rl.control.formulation.request import Queueing, Request, check
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift, Exclusion, Server, Snapshot
from loki_rl.core.servers.server_type import ServerType, as_run_by, types_of


class Planner:
    """Asks the allocator on behalf of one policy. pipeline, pool: as profiled, or as service has shown them to be."""

    def __init__(self, pipeline: Pipeline, options: PolicyOptions, queueing: Queueing, headroom: float) -> None:
        # Now, not while a cluster waits for the first plan.
        if options.solver == "search":
            warm_solver()
        warm_belief()
        self.pipeline, self.options, self.pool = pipeline, options, options.pool
        self._profiled = pipeline
        self._known: tuple[tuple[Drift, ...], tuple[Exclusion, ...]] = ((), ())
        self._belief: Belief | None = None
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
        self._known, self._belief = (snapshot.drift, gone), None
        self.pipeline, self.pool = as_measured(self._profiled, self.options.pool, snapshot.drift, gone)
        if gone and not servable(self.pipeline, self.request(FLOOR_RPS)):
            self.pipeline, self.pool = as_measured(self._profiled, self.options.pool, snapshot.drift)
        return True

    @property
    def belief(self) -> Belief:
        """Made with the first plan: a policy that is only checked should cost nothing."""
        if self._belief is None:
            asked = self.request(FLOOR_RPS)
            shared = (asked.queueing, asked.slo_s, asked.headroom, asked.pool, asked.solver)
            top = capacity(self.pipeline, asked.servers, asked.min_accuracy, *shared)
            # There may be more servers than there should be.
            self._belief = Belief(2 * top.capacity_rps)
        return self._belief

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
            solver=options.solver,
        )

    def moving(self, snapshot: Snapshot, coming: Coming, horizon_s: float) -> Request:
        """From the servers as they are, for a plan that should last `horizon_s` [s]."""
        return replace(
            self.request(coming.expected_rps, there=snapshot.servers),
            slices=coming.slices,
            mean_rps=coming.mean_rps,
            current=snapshot.servers,
            horizon_s=horizon_s,
            load_s=self.options.load_s,
            unloadable=snapshot.exclusions,
        )

    def lead_s(self, snapshot: Snapshot) -> float:
        """Time until the models of the next plan are loaded [s]: so long this one must do."""
        return snapshot.interval_s + self.load_s

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
