"""The plane that the faults are put into: traffic on 20 emulated servers, with one plan that is held. Owns the plan, and the
wait until the plane is whole again; must not know the faults."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Placement, Plan
from loki_rl.env.simulate import with_load_s
from loki_rl.files.config import load_pipeline
from loki_rl.serving.gateway.client import Client, ClientError
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.transport.listening import hold

SERVERS = 20
LOAD_S = 0.5
DEMAND_RPS = 130.0
PIPELINE = with_load_s(load_pipeline("traffic").pipeline, LOAD_S)
# Longest wait for anything [s].
PATIENCE_S = 60.0


def spared(demand_rps: float = DEMAND_RPS) -> Plan:
    """A plan for this demand on all servers but one per task, which each task has beside: it serves its capacity_rps with
    any one server missing. The allocator's own plans have a task with a single server, whose loss nothing makes good."""
    plan = allocate(PIPELINE, Request(demand_rps, SERVERS - len(PIPELINE.tasks)))
    placements = list(plan.placements)
    for task in PIPELINE.tasks:
        fastest = max((place for place in placements if place.task == task.name), key=_rate)
        placements[placements.index(fastest)] = replace(fastest, replicas=fastest.replicas + 1)
    return replace(plan, placements=tuple(placements), servers=plan.servers + len(PIPELINE.tasks))


def _rate(place: Placement) -> float:
    return place.batch / PIPELINE.variant(place.task, place.variant).latency[place.batch].p50


def told(plan: Plan) -> str:
    parts = [f"{place.replicas} x {place.variant} (batch {place.batch})" for place in plan.placements]
    return f"{', '.join(parts)}; {plan.capacity_rps:.0f} requests/s with any one of them missing"


def start(plan: Plan, worker_processes: int, http_port: int | None = None, journal: Path | None = None) -> LocalPlane:
    """A plane that keeps to this plan, not entered yet."""
    return LocalPlane(
        ClusterOptions(PIPELINE, SERVERS),
        engine="emulated",
        policy="held",
        policy_factory="benchmarks.load:held",
        policy_options={"plans": msgspec.to_builtins([plan])},
        worker_processes=worker_processes,
        http_port=http_port,
        journal=journal,
    )


HELD: list[socket.socket] = []


def free_port() -> int:
    """Held until this process ends, so that nobody else gets it."""
    HELD.append(hold("127.0.0.1", 0))
    return int(HELD[-1].getsockname()[1])


def await_whole(plane: LocalPlane, processes: int, servers: int) -> None:
    """Until all processes run and all servers serve again. Raises TimeoutError, or LaunchError if the plane cannot go on."""
    with Client(plane.front) as client:

        def whole() -> bool:
            if len(plane.pids) < processes:
                return False
            try:
                state = client.state()
            except ClientError:
                return False
            workers = [] if state.control is None else state.control.workers
            return state.ready and sum(bool(one.serving) and not one.loading for one in workers) >= servers

        until(whole, plane, "the plane is not whole again", pause_s=0.25)


def conserved(plane: LocalPlane, sent: int | None) -> bool:
    """Whether every request that the plane knows has ended, in one way. sent: how many it should know, if that is known."""
    with Client(plane.front) as client:
        tally = client.ledger().tally
    ended = sum(tally.outcome(outcome) for outcome in Outcome)
    return ended == tally.arrivals and sent in (None, tally.arrivals)


def until(done: Callable[[], object], plane: LocalPlane, what: str, pause_s: float = 0.005) -> float:
    """When it is done [s]. Raises TimeoutError, or LaunchError if the plane cannot go on."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        plane.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} after {PATIENCE_S:g} s; {'; '.join(plane.ended)}")
        time.sleep(pause_s)
    return time.monotonic()
