"""A plan: what the servers should run, and the promises that follow."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Mode = Literal["hardware", "accuracy", "shed", "infeasible"]


class Placement(Struct, frozen=True, order=True):
    """`replicas` servers of a type run one variant of a task and pull batches of at most `batch` items. server_type: its
    name, empty where all servers are alike."""

    task: str
    variant: str
    batch: int
    replicas: int
    server_type: str = ""


class Certificate(Struct, frozen=True):
    """How good the plan is proven to be.

    objective and bound: value reached and best value possible, in the unit of the mode (price, accuracy 0..1, or served
    fraction 0..1; or the switch-aware objective); of several pipelines the mean by weight. gap: |bound - objective| /
    max(|objective|, 1e-9), a share. status: the solver's own word, of the first question that it did not settle if there was
    one: then what the gap does not cover, as the least price of an accuracy, is not proven. solver: who proved it, the own
    search or HiGHS on the model written down in PuLP, or both; empty: nobody did. build_ms, solve_ms: time to make and solve
    models.
    """

    objective: float = 0.0
    bound: float = 0.0
    gap: float = 0.0
    status: str = "none"
    solver: str = ""
    build_ms: float = 0.0
    solve_ms: float = 0.0


class Route(Struct, frozen=True):
    """A share of the requests takes these (variant, batch, server type) stages from an entry task to a leaf task."""

    leaf: str
    stages: tuple[tuple[str, int, str], ...]
    share: float


class Adjustment(Struct, frozen=True):
    """What an agent wanted of a plan. factor: on the demand that may come beyond what is expected; odds: on how likely that
    is. fallback: it was not believed, and the plan is the one without it."""

    factor: float
    odds: float
    fallback: bool = False


class Plan(Struct, frozen=True):
    """The answer of a policy.

    mode: hardware (the most accurate variants do), accuracy (cheaper ones have to), shed (not all can be served) or
    infeasible (nothing can). placements: what the servers run. certificate: how good it is proven to be. reasons: what
    limits it, in sentences. servers: used of the cluster; price: of these, in the pool's own unit, 1 each without a pool.
    accuracy: expected of the served requests, 0..1. served_fraction: of the demand. demand_rps: the demand planned for.
    capacity_rps: what the placements can serve with this mix. split: task -> cumulative share of the SLO by which the task
    should end (1 at a leaf). flows: task -> variant -> share of that task's items which the variant should serve. routes:
    the same flow by whole paths; per leaf the shares sum to 1. epoch: set by the controller, rises with every plan.
    adjustment: of an agent, where the policy asks one. standby_rps: demand up to which variants that have servers but no
    share stand by, 0 if none does [1/s].
    """

    mode: Mode
    placements: tuple[Placement, ...]
    servers: int
    accuracy: float
    served_fraction: float
    demand_rps: float
    capacity_rps: float
    split: dict[str, float]
    flows: dict[str, dict[str, float]]
    certificate: Certificate = Certificate()
    reasons: tuple[str, ...] = ()
    epoch: int = 0
    routes: tuple[Route, ...] = ()
    price: float = 0.0
    adjustment: Adjustment | None = None
    standby_rps: float = 0.0


class JointPlan(Struct, frozen=True):
    """Plans of several pipelines that share a cluster, in the order asked, with one certificate for all."""

    mode: Mode
    plans: tuple[Plan, ...]
    servers: int
    price: float
    certificate: Certificate = Certificate()
    reasons: tuple[str, ...] = ()


class Server(Struct, frozen=True):
    """One server as the controller sees it.

    serving: placement it pulls for now, as (task, variant, batch), or None. resident: (task, variant) of the models in
    memory. loading: (task, variant, batch) in flight, and remaining_s until it is ready. server_type: its name.
    """

    id: int
    serving: tuple[str, str, int] | None = None
    resident: tuple[tuple[str, str], ...] = ()
    loading: tuple[str, str, int] | None = None
    remaining_s: float = 0.0
    server_type: str = ""


class Drift(Struct, frozen=True, array_like=True):
    """What one variant does in service, where its profile says otherwise. server_type: name of the type that it ran on.
    slowdown: measured over profiled service time, its own or of what ran beside it. fanout: child task -> measured children
    per item; empty where none were counted."""

    task: str
    variant: str
    server_type: str
    slowdown: float
    fanout: dict[str, float]


class Exclusion(Struct, frozen=True, array_like=True):
    """A variant that no server of a type can load now, and why. server_type: the type's name."""

    task: str
    variant: str
    server_type: str
    reason: str


class Snapshot(Struct, frozen=True):
    """All that a policy may know.

    now [s]; interval_s: time until it is asked again. arrivals: requests in each whole past second, oldest first. age_s:
    time since the last of these seconds ended, more than a second where counts are late or lost. backlog_s: task ->
    predicted drain time of its queue [s]. items: task -> items that came to its queue in each past second, oldest first.
    plan: the one in force, None before the first. drift: what differs from the profile. exclusions: what nobody should be
    told to load now; servers that have it may go on.
    """

    now: float
    interval_s: float
    arrivals: tuple[int, ...]
    age_s: float
    servers: tuple[Server, ...]
    backlog_s: dict[str, float] = {}
    items: dict[str, tuple[int, ...]] = {}
    plan: Plan | None = None
    drift: tuple[Drift, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
