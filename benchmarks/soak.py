"""Half an hour at load .9 in which all servers change their model every 20 s, and a process is killed or stopped every 30 s:
does any process grow, and does every request end in exactly one way?

Resident memory and open descriptors of every process are read every 10 s. A process that was started again is another one:
of every life that was long enough the slope of its memory is found by least squares, without its first minutes. Workers,
routers, gateway, controller and HTTP processes are struck in turn; the client has a process of its own, the launcher is this
one.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from multiprocessing.connection import Connection

import msgspec
import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from benchmarks.faults import planes
from benchmarks.faults.checks import Check, show
from benchmarks.host import busy_s, descriptors, load_average, own_s, rss_mb
from benchmarks.load import lesser
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.load.native_sender import NativeSender
from loki_rl.serving.load.open_loop import OpenLoop, lag_ms
from loki_rl.serving.load.sender import Sender
from loki_rl.serving.process.launch import LocalPlane

DEMAND_RPS, LOAD = 150.0, 0.9
# A plan is held for two questions. So many servers load at once.
INTERVAL_S, PARALLEL = 10.0, 2
WORKER_PROCESSES, HTTP_PROCESSES = 10, 2
FAULT_S, LOOK_S = 30.0, 10.0
# Of a life so much is not counted, and a life is counted that was longer than three times that [s]; in a shorter run less.
WARM_S = 120.0
SLOPE_MB = 0.1
# ZeroMQ opens three more with the first restart of a peer, and no more with the next ones.
MORE_DESCRIPTORS = 3
LAUNCHER = "launcher"


class Life(Struct):
    """One process. at: when it was looked at [s]."""

    at: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


class Growth(Struct):
    """Of one life, after its first minutes. step_mb: the most that was added between two looks; a leak adds little all the
    time, a queue that was never so long before much at once. more: by how many descriptors the fewest of its last third
    exceed the most of its first third; connections come and go."""

    name: str
    minutes: float
    first_mb: float
    last_mb: float
    slope_mb: float
    step_mb: float
    descriptors: int
    more: int


class Told(Struct):
    """What the client saw. violated: of the requests sent."""

    sent: int
    violated: int
    outcomes: dict[str, int]
    lost: int
    twice: int
    lag_ms: float


Lives = dict[tuple[str, int], Life]


def growths(lives: Lives, warm_s: float) -> list[Growth]:
    """Of the lives that were long enough, by name."""
    found = []
    for (name, _), life in sorted(lives.items()):
        at = np.array(life.at)
        if at[-1] - at[0] <= 3 * warm_s:
            continue
        late = at - at[0] > warm_s
        minutes, rss, handles = at[late] / 60, np.array(life.rss_mb)[late], np.array(life.descriptors)[late]
        third = max(1, len(handles) // 3)
        found.append(
            Growth(
                name=name,
                minutes=(at[-1] - at[0]) / 60,
                first_mb=rss[0],
                last_mb=rss[-1],
                slope_mb=float(np.polyfit(minutes - minutes[0], rss, 1)[0]),
                step_mb=float(np.diff(rss).max()),
                descriptors=int(np.median(handles[:third])),
                more=max(0, int(handles[-third:].min() - handles[:third].max())),
            )
        )
    return found


def plane(port: int) -> tuple[LocalPlane, float]:
    """As in the swap of benchmarks.load, and the rate at load 1 [requests/s]."""
    pipeline = replace(planes.PIPELINE, swap="break")
    best = allocate(pipeline, Request(DEMAND_RPS, planes.SERVERS))
    made = LocalPlane(
        ClusterOptions(pipeline, planes.SERVERS, interval_s=INTERVAL_S, parallel_loads=PARALLEL),
        engine="emulated",
        policy="held",
        policy_factory="benchmarks.load:held",
        policy_options={"plans": msgspec.to_builtins([best, lesser(pipeline, best)])},
        worker_processes=WORKER_PROCESSES,
        http_port=port,
        http_processes=HTTP_PROCESSES,
    )
    return made, best.capacity_rps


def client(front: str, url: str, rps: float, pipe: Connection) -> None:
    """Send until told to stop, then tell what was seen."""
    slo_s = planes.PIPELINE.slo_s
    name = planes.PIPELINE.name
    senders: list[Sender] = [NativeSender(front, name, None, slo_s), HttpSender(url, name, None, slo_s)]
    with OpenLoop(senders, rps) as loop:
        pipe.recv()
        records = loop.stop()
    pipe.send(
        Told(
            sent=len(records),
            violated=sum(not record.ok(slo_s) for record in records),
            outcomes=dict(Counter(record.outcome.name.lower() for record in records)),
            lost=sum(record.lost for record in records),
            twice=sum(record.ends > 1 for record in records),
            lag_ms=lag_ms(records),
        )
    )


def targets(pids: dict[str, int], workers_only: bool) -> list[str]:
    """Workers and the others in turn, so that no process comes again before long."""
    workers = [name for name in pids if name.startswith("workers")]
    others = [] if workers_only else [name for name in pids if name not in workers]
    mixed = [name for pair in zip(workers, others, strict=False) for name in pair]
    return mixed + [name for name in (*workers, *others) if name not in mixed]


def look(lives: Lives, pids: dict[str, int]) -> None:
    for name, pid in {LAUNCHER: os.getpid(), **pids}.items():
        rss, handles = rss_mb(pid), descriptors(pid)
        if rss is not None and handles is not None:
            life = lives.setdefault((name, pid), Life())
            life.at.append(time.monotonic())
            life.rss_mb.append(rss)
            life.descriptors.append(handles)


def strike(running: LocalPlane, name: str, turn: int) -> bool:
    """A kill and a stop in turn; False if it does not run just now."""
    pid = running.pids.get(name)
    if pid is None:
        return False
    os.kill(pid, signal.SIGSTOP if turn % 2 else signal.SIGKILL)
    return True


def soak(running: LocalPlane, seconds: float, workers_only: bool) -> tuple[Lives, Counter[str]]:
    """Looks and faults while the client sends. Raises LaunchError if the plane cannot go on."""
    lives: Lives = {}
    struck = Counter[str]()
    order = targets(running.pids, workers_only)
    began = time.monotonic()
    look_at, fault_at, turn = began, began + FAULT_S, 0
    while (now := time.monotonic()) < began + seconds:
        running.check()
        if now >= look_at:
            look(lives, running.pids)
            look_at += LOOK_S
        if now >= fault_at:
            # Each name meets both, as the number of names is odd or the round shifts them.
            round_, place = divmod(turn, len(order))
            struck["stopped" if (place + round_) % 2 else "killed"] += strike(running, order[place], place + round_)
            fault_at, turn = fault_at + FAULT_S, turn + 1
        time.sleep(max(0.0, min(look_at, fault_at, began + seconds) - time.monotonic()))
    return lives, struck


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--workers-only", action="store_true", help="strike no others: their lives are as long as the run")
    args = parser.parse_args()
    seconds = 60 * args.minutes
    logging.getLogger("loki_rl").setLevel(logging.ERROR)
    port = planes.free_port()
    made, rps = plane(port)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    print(
        f"traffic, {planes.SERVERS} servers, {LOAD * rps:.0f} requests/s, {seconds / 60:g} minutes; {load_average()}",
        flush=True,
    )
    with made as running:
        processes = len(running.pids)
        arguments = (running.front, f"http://127.0.0.1:{port}", LOAD * rps, theirs)
        sender = multiprocessing.get_context("spawn").Process(target=client, args=arguments, daemon=True)
        busy, own, began = busy_s(), own_s(running.pids.values()), time.monotonic()
        sender.start()
        lives, struck = soak(running, seconds, args.workers_only)
        foreign = (busy_s() - busy - (own_s(running.pids.values()) - own)) / (time.monotonic() - began)
        ours.send(None)
        told: Told = ours.recv()
        sender.join()
        # A process that was stopped last is still to be found.
        planes.until(lambda: running.restarted >= struck.total(), running, "a process that was struck is not started again")
        planes.await_whole(running, processes, 0)
        conserved, restarted = planes.conserved(running, None), running.restarted
    report(growths(lives, min(WARM_S, seconds / 8)), told, struck, restarted, conserved, foreign)


def report(found: list[Growth], told: Told, struck: Counter[str], restarted: int, conserved: bool, foreign: float) -> None:
    print(f"{'process':14}{'minutes':>8}{'MB':>16}{'MB/min':>9}{'step MB':>9}{'descriptors':>13}{'more':>6}")
    for one in found:
        memory = f"{one.first_mb:.1f} .. {one.last_mb:.1f}"
        print(
            f"{one.name:14}{one.minutes:8.1f}{memory:>16}{one.slope_mb:9.3f}{one.step_mb:9.2f}{one.descriptors:13}{one.more:6}"
        )
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(told.outcomes.items()))
    print(f"{told.sent} requests: {outcomes}; violated {told.violated / max(1, told.sent):.2%}")
    print(f"{struck['killed']} killed, {struck['stopped']} stopped, {restarted} started again")
    print(f"send lag p99 {told.lag_ms:.1f} ms, foreign with the client {foreign:.2f}, {load_average()}")
    steepest = max((one.slope_mb for one in found), default=None)
    most = max((one.more for one in found), default=None)
    show(
        [
            Check("soak: steepest slope of a life", steepest, SLOPE_MB, " MB/min", 3),
            Check("soak: more descriptors at the end of a life", most, MORE_DESCRIPTORS, digits=0),
            Check("soak: started again without having been struck", restarted - struck.total(), 0.0, digits=0),
            Check("soak: requests without an end", told.lost, 0.0, digits=0),
            Check("soak: requests answered twice", told.twice, 0.0, digits=0),
            Check("soak: ledger does not add up", float(not conserved), 0.0, digits=0),
        ]
    )


if __name__ == "__main__":
    main()
