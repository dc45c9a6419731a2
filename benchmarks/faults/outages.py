"""Router, gateway and controller are killed while clients of both protocols send: how long it shows, and what becomes of
every single request."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from msgspec import Struct

from benchmarks.faults import planes
from benchmarks.faults.checks import Check
from benchmarks.host import load_average
from loki_rl.core.messages import CONTROLLER, GATEWAY
from loki_rl.serving.gateway.client import Client, ClientError
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.load.native_sender import NativeSender
from loki_rl.serving.load.open_loop import OpenLoop, Record, lag_ms
from loki_rl.serving.load.sender import Sender
from loki_rl.serving.process.launch import LocalPlane

LOAD = 0.6
SLO_S = planes.PIPELINE.slo_s
# Workers are not what is killed here, so few processes have them.
WORKER_PROCESSES = 2
ROUTER = "router"
# Each plane has one kill of each kind: the first restart of a process comes at once, the next ones wait (see RestartBudget).
KINDS = (ROUTER, GATEWAY, CONTROLLER)
# Until the service is there again at the latest, for the clients and as a whole [s].
LIMITS_S = {ROUTER: 2.0, GATEWAY: 2.0, CONTROLLER: 3.0}
# Between two kills: all that a kill costs is seen by then.
APART_S = 6.0
# A violation of the plane's usual ones may come at any time. The outage is over when for this long there was none [s].
QUIET_S = 1.0


class Outage(Struct):
    """kind: of KINDS. at, again: when it was killed, and told of itself again [s]. until: when the next kill comes [s]."""

    kind: str
    at: float
    again: float
    until: float = math.inf


class Cost(Struct):
    """Of one outage, times since the kill. first_s: until a request that was sent after it was answered well. over_s: until
    the last one was sent that was violated before QUIET_S without a violation. back_s: until all is as it was, for clients
    and to be seen in the plane's state. affected: requests violated until then; refused: those of them that could not be
    sent."""

    first_s: float
    over_s: float
    back_s: float
    affected: int
    refused: int


def cost(records: Sequence[Record], outage: Outage) -> Cost:
    """records: by the time at which they were due."""
    mine = [record for record in records if outage.at - SLO_S <= record.due < outage.until]
    later = [record for record in mine if record.due >= outage.at]
    first = min((record.ended for record in later if record.ok(SLO_S)), default=math.inf)
    # Of those that were in flight the ones that had ended before the kill are not its work.
    bad = [record for record in mine if not record.ok(SLO_S) and not record.ended < outage.at]
    over = outage.at
    affected = []
    for record in bad:
        if record.due > over + QUIET_S:
            break
        affected.append(record)
        over = max(over, record.due)
    refused = sum(math.isnan(record.sent) for record in affected)
    back = max(first, over, outage.again)
    return Cost(first - outage.at, over - outage.at, back - outage.at, len(affected), refused)


def outages(count: int) -> list[Check]:
    """count: of each kind."""
    plan = planes.spared()
    costs: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
    records: list[Record] = []
    conserved = True
    for turn in range(count):
        sent, found, adds_up = _run(turn, LOAD * plan.capacity_rps)
        for outage in found:
            costs[outage.kind].append(cost(sent, outage))
        records += sent
        conserved &= adds_up
    lost, twice = sum(record.lost for record in records), sum(record.ends > 1 for record in records)
    print(f"SIGKILL of router, gateway and controller at load {LOAD:g}: {count} times each, half of the requests over HTTP")
    for kind in KINDS:
        _print(kind, costs[kind])
    print(f"  {len(records)} requests, {lost} lost, {twice} answered twice", end="; ")
    print(f"send lag p99 {lag_ms(records):.1f} ms, {load_average()}", flush=True)
    back = {kind: max(one.back_s for one in costs[kind]) for kind in KINDS}
    return [
        *(Check(f"{kind} killed: back after", back[kind], LIMITS_S[kind], " s") for kind in KINDS),
        Check("controller killed: requests affected", sum(one.affected for one in costs[CONTROLLER]), 0.0, digits=0),
        Check("outages: requests without an end", lost, 0.0, digits=0),
        Check("outages: requests answered twice", twice, 0.0, digits=0),
        Check("outages: ledger does not add up", float(not conserved), 0.0, digits=0),
    ]


def _print(kind: str, costs: list[Cost]) -> None:
    first, over, back = (
        f"{np.median(times):.2f} s (worst {max(times):.2f})"
        for times in ([one.first_s for one in costs], [one.over_s for one in costs], [one.back_s for one in costs])
    )
    affected, refused = sum(one.affected for one in costs), sum(one.refused for one in costs)
    print(f"  {kind}: first answer after {first}, last violation sent after {over}, back after {back}")
    print(f"    {affected} requests affected, {refused} of them could not be sent", flush=True)


def _run(turn: int, rps: float) -> tuple[list[Record], list[Outage], bool]:
    """One plane, one kill of each kind."""
    port = planes.free_port()
    with planes.start(planes.spared(), WORKER_PROCESSES, port) as plane:
        processes = len(plane.pids)
        planes.await_whole(plane, processes, planes.SERVERS)
        name, url = planes.PIPELINE.name, f"http://127.0.0.1:{port}"
        senders: list[Sender] = [NativeSender(plane.front, name, None, SLO_S), HttpSender(url, name, None, SLO_S)]
        found: list[Outage] = []
        with OpenLoop(senders, rps, seed=turn) as loop:
            time.sleep(APART_S / 2)
            for place in range(len(KINDS)):
                loop.check()
                found.append(_kill(plane, KINDS[(turn + place) % len(KINDS)], turn))
                time.sleep(max(0.0, found[-1].at + APART_S - time.monotonic()))
            records = loop.stop()
        planes.await_whole(plane, processes, planes.SERVERS)
        for outage, following in pairwise(found):
            outage.until = following.at - SLO_S
        return records, found, planes.conserved(plane, None)


def _kill(plane: LocalPlane, kind: str, turn: int) -> Outage:
    """Of the routers another one each turn."""
    name = f"{ROUTER}-{turn % len(planes.PIPELINE.tasks)}" if kind == ROUTER else kind
    former, at = plane.pids[name], time.monotonic()
    os.kill(former, signal.SIGKILL)
    planes.until(lambda: plane.pids.get(name, former) != former, plane, f"'{name}' is not started again")
    with Client(plane.front) as client:

        def answers() -> bool:
            """In the state of the plane a part is missing that does not tell of itself."""
            try:
                state = client.state()
            except ClientError:
                return False
            return state.control is not None and not state.silent

        again = planes.until(answers, plane, f"'{name}' does not tell of itself")
    return Outage(kind, at, again)
