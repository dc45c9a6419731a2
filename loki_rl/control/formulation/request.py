"""What an allocator is asked: the request, its checks and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isfinite
from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Exclusion, Server
from loki_rl.core.servers.server_type import ServerType, types_of
from loki_rl.core.validation import require
from loki_rl.errors import UserError
from loki_rl.options import LEAST_RPS, MOST_HEADROOM, MOST_RPS, MOST_SERVERS

Queueing = Literal["half-slo", "tail"]
# Who answers: this program's own search, or HiGHS on the model written down in PuLP (docs/allocator.md, Searches).
Solver = Literal["search", "pulp"]
QUEUEINGS: tuple[Queueing, ...] = get_args(Queueing)
SOLVERS: tuple[Solver, ...] = get_args(Solver)


class RequestError(UserError):
    """The request itself is wrong (not merely impossible to fulfil); the message says which part and what it should be."""


class Slice(Struct, frozen=True):
    """Demand from the end of the slice below (0 for the first) to `to_rps` [1/s], and how likely it is to come, 0..1."""

    to_rps: float
    chance: float


class Request(Struct, frozen=True):
    """One question to the allocator.

    demand_rps: requests per second that must be served [1/s]. servers: size of the cluster. slo_s: deadline [s], the
    pipeline's if None. min_accuracy: floor 0..1 on the mean accuracy of what is served. headroom: share of demand added
    before planning. queueing: name of the latency model. time_limit_s: after it the best plan found so far is returned.
    pool: types of the servers, which must add up to `servers`; empty: all are alike and run as the pipeline says, at price
    1. solver: the own search, or the model written down in PuLP and solved by HiGHS, which finds the same, slowly.

    Switch-aware planning is on when `current` and `horizon_s` are given: current: the servers as they are; horizon_s: how
    long the plan will be kept [s]; load_s: time to load a model [s], the variants' own if None; slices: all demand that may
    come, upwards and ever less likely, which is served as far as that pays; demand_rps is then what is expected, and without
    slices comes for sure; mean_rps: demand in the long run [1/s], which costs count against, demand_rps if None; unloadable:
    models that no further server can load, so that a plan has them at most where they are.
    """

    demand_rps: float
    servers: int
    slo_s: float | None = None
    min_accuracy: float = 0.0
    headroom: float = 0.0
    queueing: Queueing = "tail"
    time_limit_s: float = 5.0
    current: tuple[Server, ...] = ()
    horizon_s: float | None = None
    load_s: float | None = None
    slices: tuple[Slice, ...] = ()
    mean_rps: float | None = None
    unloadable: tuple[Exclusion, ...] = ()
    pool: tuple[ServerType, ...] = ()
    solver: Solver = "search"

    @property
    def types(self) -> tuple[ServerType, ...]:
        """The types of which there are servers."""
        return types_of(self.pool, self.servers)


class Part(Struct, frozen=True):
    """One of the pipelines that share a cluster: its own request, and how much its accuracy and its requests count."""

    pipeline: Pipeline
    request: Request
    weight: float = 1.0


def with_count(request: Request, kind: ServerType, count: int) -> Request:
    """The request for another number of servers of one of its types."""
    pool = tuple(replace(one, count=count) if one.name == kind.name else one for one in request.pool)
    return replace(request, pool=pool, servers=request.servers - kind.count + count)


def check_parts(parts: Sequence[Part]) -> None:
    """Raise RequestError where a request contradicts itself or two of them do not ask about one cluster."""
    _require(bool(parts), "name at least one pipeline")
    for part in parts:
        check(part.request)
        _require(_positive(part.weight), f"the weight of '{part.pipeline.name}' must be above 0, not {part.weight}")
        alone = len(parts) == 1 or part.request.horizon_s is None
        _require(alone, "several pipelines are planned for empty servers only, without a horizon")
    shared = [(one.servers, one.pool, one.time_limit_s, one.solver) for one in (part.request for part in parts)]
    alike = all(one == shared[0] for one in shared)
    _require(alike, "pipelines that share a cluster need the same servers, time limit and solver")


def check(request: Request) -> None:
    """Raise RequestError where the request contradicts itself."""
    _check_pool(request)
    within = LEAST_RPS <= request.demand_rps <= MOST_RPS
    _require(within, f"demand must lie between {LEAST_RPS:g} and {MOST_RPS:g} requests/s, not {request.demand_rps}")
    _require(request.servers <= MOST_SERVERS, f"servers must be at most {MOST_SERVERS}, not {request.servers}")
    _require(request.servers >= 1, f"servers must be at least 1, not {request.servers}")
    _require(0 <= request.min_accuracy <= 1, f"min_accuracy must lie in 0..1, not {request.min_accuracy}")
    _require(0 <= request.headroom <= MOST_HEADROOM, f"headroom must lie in 0..{MOST_HEADROOM:g}, not {request.headroom}")
    _require(request.queueing in QUEUEINGS, f"queueing must be one of {', '.join(QUEUEINGS)}, not '{request.queueing}'")
    _require(_positive(request.time_limit_s), f"the time limit must be above 0 s, not {request.time_limit_s}")
    for name, seconds in (("slo_s", request.slo_s), ("horizon_s", request.horizon_s)):
        _require(seconds is None or _positive(seconds), f"{name} must be above 0 s, not {seconds}")
    _require(request.load_s is None or _nonnegative(request.load_s), f"load_s must be >= 0, not {request.load_s}")
    mean = request.mean_rps
    _require(mean is None or _positive(mean), f"mean_rps must be above 0, not {mean}")
    _check_slices(request)
    _require(request.solver in SOLVERS, f"solver must be one of {', '.join(SOLVERS)}, not '{request.solver}'")


def _check_slices(request: Request) -> None:
    below, likelier = 0.0, 1.0
    for one in request.slices:
        _require(isfinite(one.to_rps) and one.to_rps >= below, f"slices must rise from {below}, not to {one.to_rps}")
        _require(0 <= one.chance <= likelier, f"the chances of slices must fall from {likelier} to 0, not to {one.chance}")
        below, likelier = one.to_rps, one.chance


def _check_pool(request: Request) -> None:
    names = [kind.name for kind in request.pool]
    _require(len(set(names)) == len(names), f"two server types have the same name: {', '.join(names)}")
    total = sum(kind.count for kind in request.pool)
    _require(not names or total == request.servers, f"the types have {total} servers together, not {request.servers}")
    for kind in request.pool:
        where = f"server type '{kind.name}'"
        _require(kind.count >= 0, f"{where}: count must be at least 0, not {kind.count}")
        _require(_positive(kind.price), f"{where}: price must be above 0, not {kind.price}")
        _require(kind.memory_mb > 0, f"{where}: memory_mb must be above 0, not {kind.memory_mb}")
        _require(kind.speed is None or _positive(kind.speed), f"{where}: speed must be above 0, not {kind.speed}")


def _positive(number: float) -> bool:
    return isfinite(number) and number > 0


def _nonnegative(number: float) -> bool:
    return isfinite(number) and number >= 0


_require = partial(require, error=RequestError)
