"""One vocabulary for the wire, the twin's heap and the journal: what actors are told and what they ask for."""

from __future__ import annotations

from enum import IntEnum

import msgspec
from msgspec import Struct

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Drift, Plan
from loki_rl.core.requests.items import Family, QoS

GATEWAY = "gateway"
CONTROLLER = "controller"


def router(task: int) -> str:
    """Address of the router of the task at this position."""
    return f"router:{task}"


def routers(pipeline: Pipeline) -> list[str]:
    """Addresses of all routers."""
    return [router(task) for task in range(len(pipeline.tasks))]


def worker(number: int) -> str:
    """Address of a worker (one per server)."""
    return f"worker:{number}"


def number_of(address: str) -> int:
    """The number in the address of a worker or router."""
    return int(address.partition(":")[2])


class Outcome(IntEnum):
    """How an arrival ends; each ends in exactly one (docs/glossary.md says when)."""

    OK = 0
    LATE = 1
    DROPPED = 2
    REJECTED = 3
    CANCELLED = 4
    FAILED = 5


class Cause(Struct, array_like=True, gc=False, frozen=True):
    """Why an item ended at a task (-1: a request that reached none) without a result. Dropped: late_s: how much too late it
    would have ended [s]; fitting: the quickest variant of the task, if that could still have made it, else -1. Failed: said:
    what went wrong. client_fault: whether what the client sent is to blame."""

    task: int
    late_s: float = 0.0
    fitting: int = -1
    said: str = ""
    client_fault: bool = False


class Fault(Struct, array_like=True, gc=False, frozen=True):
    """Why one item of a batch has no result while the others have. client_fault: whether its own payload is to blame, so
    that whoever sent it can do something about it."""

    said: str
    client_fault: bool = True


class Message(Struct, array_like=True, tag=True, gc=False):
    """Base of all that is told to an actor."""


# -- requests and their parts ---------------------------------------------------------------------------------------------


class Arrived(Message, array_like=True, tag=True):
    """To the gateway: requests came in. keys: the caller's own reference of each, given back in Reply. timeouts: end-to-end
    deadline of each [s], or 0.0 for the pipeline's SLO. qos: key -> what those ask for that ask for anything. sizes: key ->
    bytes of the payload, of those that have one."""

    keys: list[int]
    timeouts: list[float]
    qos: dict[int, QoS] = {}
    sizes: dict[int, int] = {}


class Abandoned(Message, array_like=True, tag=True):
    """To the gateway: the clients of these requests are gone. keys as in Arrived."""

    keys: list[int]


class Submit(Message, array_like=True, tag=True):
    """To a router: items for its queue. A parent's children of one task come in one family."""

    families: list[Family]


class Ended(Message, array_like=True, tag=True):
    """To the gateway: these items of a task ended the same way. variant: the one that served them, -1 if none did. fanouts:
    children made, per item and child task (empty at a leaf or when nothing ran). cause: why they have no result, as far as
    it is known."""

    task: int
    outcome: Outcome
    families: list[Family]
    variant: int
    fanouts: list[tuple[int, ...]]
    cause: Cause | None = None


class Cancelled(Message, array_like=True, tag=True):
    """To the routers: nobody waits for these requests any more."""

    roots: list[int]


# -- routers and workers ------------------------------------------------------------------------------------------------


class Ready(Message, array_like=True, tag=True):
    """To a router: a credit for one batch. incarnation: rises with every start of the worker process, so that a message of
    a former life is recognised; serial: rises with every batch, so that a repeated credit counts once."""

    worker: int
    incarnation: int
    serial: int
    variant: int
    batch: int


class Leaving(Message, array_like=True, tag=True):
    """To a router: the worker pulls no more; a batch in flight will still be answered."""

    worker: int
    incarnation: int


class Execute(Message, array_like=True, tag=True):
    """To a worker: run this batch. variant: the one the credit named. slowdown: how much longer than profiled it should take
    there."""

    batch: int
    variant: int
    families: list[Family]
    slowdown: float = 1.0


class Result(Message, array_like=True, tag=True):
    """To a router: a batch ended. fanouts as in Ended. seconds: service time. error: why the engine failed, else empty.
    faults: place of an item in the batch -> why it has no result, while the others have."""

    worker: int
    incarnation: int
    batch: int
    variant: int
    fanouts: list[tuple[int, ...]]
    seconds: float
    error: str
    faults: dict[int, Fault] = {}


class Pressure(Message, array_like=True, tag=True):
    """To the parent's router: a child task's queue exceeds (or no longer exceeds) its soft slack."""

    task: int
    overloaded: bool


class WorkerGone(Message, array_like=True, tag=True):
    """To routers and controller: a worker process ended or hangs."""

    worker: int
    reason: str


# -- engine of a worker ---------------------------------------------------------------------------------------------------


class BatchDone(Message, array_like=True, tag=True):
    """To a worker, from its engine. fanouts per item and child task. error: empty if it went well. faults: as in Result."""

    batch: int
    fanouts: list[tuple[int, ...]]
    seconds: float
    error: str = ""
    faults: dict[int, Fault] = {}


class Loaded(Message, array_like=True, tag=True):
    """To a worker, from its engine: a model is warm, or could not be loaded (error says why)."""

    task: int
    variant: int
    seconds: float
    error: str = ""


# -- control --------------------------------------------------------------------------------------------------------------


class Assign(Message, array_like=True, tag=True):
    """To a worker: serve this from now on. task -1: pull no more (parked, the model stays warm)."""

    epoch: int
    task: int
    variant: int
    batch: int


class Report(Message, array_like=True, tag=True):
    """To the controller: what a worker does. Positions are -1 where there is nothing. started: time its load began [s];
    loads: models loaded since the worker began; ended_task, ended_variant: model whose load has just ended; error: why that
    failed, else empty."""

    worker: int
    incarnation: int
    epoch: int
    task: int
    variant: int
    batch: int
    loading_task: int
    loading_variant: int
    started: float
    loads: int
    ended_task: int = -1
    ended_variant: int = -1
    error: str = ""


class Counted(Message, array_like=True, tag=True):
    """To the controller: requests that arrived in whole second `second` (since the origin)."""

    second: int
    arrivals: int


class Backlog(Message, array_like=True, tag=True):
    """To the controller, every second: state of a task's queue. drain_s: predicted time to serve it; arrived: items
    since the last report; drift: what is not as profiled; levels: name of a type of server -> measured over profiled
    service time of what the task has run there."""

    task: int
    queued: int
    drain_s: float
    arrived: int = 0
    drift: list[Drift] = []
    levels: dict[str, float] = {}


class Sample(Message, array_like=True, tag=True):
    """To the gateway's ledger, every second: servers pulling or loading, and loads begun, in that second."""

    second: int
    servers: int
    loads: int


class Planned(Message, array_like=True, tag=True):
    """To the controller: the policy's answer. error: why there is none."""

    plan: Plan | None
    error: str = ""


class PlanChanged(Message, array_like=True, tag=True):
    """To routers: the plan in force."""

    plan: Plan


class Begin(Message, array_like=True, tag=True):
    """To gateway, routers and controller: trace time 0 is at `origin` [s]; count from here."""

    origin: float


class Drain(Message, array_like=True, tag=True):
    """To the gateway: refuse new requests, finish the others."""


class Restarted(Message, array_like=True, tag=True):
    """From an actor whose process was started again, to those it talks to: it begins anew and knows nothing of what was
    before. address: its own."""

    address: str


class Restored(Message, array_like=True, tag=True):
    """To a restarted gateway, from its node and before anything else: where the life before it stood, as last written down.
    origin: of trace time [s]; second: the first that was not reported, arrived: in it so far; next_root: number of the next
    request; tally: a ledger.Tally as msgpack (the ledger builds on these messages, so they cannot name it)."""

    origin: float
    second: int
    arrived: int
    next_root: int
    draining: bool
    tally: bytes


class Resume(Message, array_like=True, tag=True):
    """Gateway to a restarted controller: where it goes on. origin: of trace time [s]; arrivals: of the latest whole seconds,
    the last of them `counted - 1`; plan: in force, None before the first."""

    origin: float
    counted: int
    arrivals: list[int]
    plan: Plan | None


class Drifted(Message, array_like=True, tag=True):
    """Controller to a restarted router: what its former life had found not to be as profiled."""

    drift: list[Drift]


class Tick(Message, array_like=True, tag=True):
    """Time has reached wake_at()."""


Event = (
    Arrived | Abandoned | Submit | Ended | Cancelled | Ready | Leaving | Execute | Result | Pressure | WorkerGone
    | BatchDone | Loaded | Assign | Report | Counted | Backlog | Sample | Planned | PlanChanged | Begin | Drain
    | Restarted | Restored | Resume | Drifted | Tick
)  # fmt: skip

event_decoder = msgspec.msgpack.Decoder(Event)
encoder = msgspec.msgpack.Encoder()
