"""Workers that are killed, and workers that are stopped, at a load that the others can carry."""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from benchmarks.faults import planes
from benchmarks.faults.checks import Check
from benchmarks.faults.recovery import Batch, recoveries
from benchmarks.host import busy_s, load_average, own_s
from loki_rl.serving.load.native_sender import NativeSender
from loki_rl.serving.load.open_loop import OpenLoop, Record, lag_ms
from loki_rl.serving.process.launch import LocalPlane

LOAD = 0.8
# Between two faults, beside the time until the plane is whole. A process has lived for longer than the window of its restart
# budget before its turn comes again.
PAUSE_S = 2.0
# From one worker to the next, so that a few faults meet every task.
STEP = 7
AFTER_S = 1.0
SLO_S = planes.PIPELINE.slo_s
# What remains of the requests that follow a fault by less than this is not counted as undisturbed.
DISTURBED_S = 4.0
# Most that may be violated of the requests in the AFTER_S that follow a kill [%].
KILL_LIMIT = 0.1
# A stopped worker's items are given to others within twice the time of their batch and FOUND_S, its process started again
# within RESTART_S.
FOUND_S, RESTART_S = 0.05, 3.0


class Fault(Struct):
    """worker: number of the only worker of the process. restarted: when its successor ran [s]."""

    at: float
    worker: int
    restarted: float = 0.0


class Run(Struct):
    records: list[Record]
    faults: list[Fault]
    foreign: float
    conserved: bool


def run(number: int, count: int, journal: Path | None = None) -> Run:
    """Send this signal to one worker's process after the other."""
    plan = planes.spared()
    with planes.start(plan, planes.SERVERS, journal=journal) as plane:
        whole = len(plane.pids)
        planes.await_whole(plane, whole, planes.SERVERS)
        busy, own, began = busy_s(), own_s(plane.pids.values()), time.monotonic()
        with OpenLoop([NativeSender(plane.front, planes.PIPELINE.name, None, SLO_S)], LOAD * plan.capacity_rps) as loop:
            time.sleep(PAUSE_S)
            faults = []
            for place in range(count):
                loop.check()
                faults.append(_strike(plane, STEP * place % planes.SERVERS, number))
                planes.await_whole(plane, whole, planes.SERVERS)
                time.sleep(PAUSE_S)
            records = loop.stop()
        foreign = (busy_s() - busy - (own_s(plane.pids.values()) - own)) / (time.monotonic() - began)
        conserved = planes.conserved(plane, sum(not math.isnan(record.sent) for record in records))
    return Run(records, faults, foreign, conserved)


def _strike(plane: LocalPlane, worker: int, number: int) -> Fault:
    name = f"workers-{worker}"
    former = plane.pids[name]
    fault = Fault(time.monotonic(), worker)
    os.kill(former, number)
    fault.restarted = planes.until(lambda: plane.pids.get(name, former) != former, plane, f"'{name}' is not started again")
    return fault


def violated(records: Sequence[Record], faults: Sequence[Fault], after_s: float) -> tuple[int, int]:
    """Of the requests that were due within this time after a fault: violations, and how many they are."""
    there = [record.ok(SLO_S) for record in records if any(fault.at <= record.due < fault.at + after_s for fault in faults)]
    return there.count(False), len(there)


def _print(title: str, found: Run) -> None:
    records, faults = found.records, found.faults
    bad, of = violated(records, faults, AFTER_S)
    near_bad, near = violated(records, faults, DISTURBED_S)
    rest_bad, rest = sum(not record.ok(SLO_S) for record in records) - near_bad, len(records) - near
    hit = sum(violated(records, [fault], AFTER_S)[0] > 0 for fault in faults)
    print(f"{title} at load {LOAD:g}: {len(faults)} times, {hit} of them cost anything")
    print(f"  violated: {_share(bad, of)} within {AFTER_S:g} s, {_share(near_bad, near)} within {DISTURBED_S:g} s,", end="")
    print(f" {_share(rest_bad, rest)} of the others")
    print(f"  send lag p99 {lag_ms(records):.1f} ms, foreign {found.foreign:.2f}, {load_average()}", flush=True)


def _share(bad: int, of: int) -> str:
    return f"{bad}/{of} ({bad / max(1, of):.2%})"


def _times(batch: Batch) -> str:
    found, given, usual = (
        1000 * seconds for seconds in (batch.found - batch.begun, batch.given - batch.begun, batch.usual_s)
    )
    return f"{found:.0f}, {given:.0f} ms (it takes {usual:.0f})"


def kill(count: int) -> list[Check]:
    """SIGKILL of one worker after the other."""
    found = run(signal.SIGKILL, count)
    _print("SIGKILL of a worker", found)
    bad, of = violated(found.records, found.faults, AFTER_S)
    return [
        Check(f"kill: violated in the second after {count} kills", 100 * bad / max(1, of), KILL_LIMIT, " %", 3),
        Check("kill: requests without exactly one outcome", float(not found.conserved), 0.0, digits=0),
    ]


def stop(count: int) -> list[Check]:
    """SIGSTOP of one worker after the other."""
    with tempfile.TemporaryDirectory() as folder:
        found = run(signal.SIGSTOP, count, Path(folder))
        stops = recoveries(Path(folder), planes.PIPELINE, [(fault.at, fault.worker) for fault in found.faults])
    _print("SIGSTOP of a worker", found)
    for fault, one in zip(found.faults, stops, strict=True):
        held = ", ".join(map(_times, one.held)) or "- (it had none)"
        cost = violated(found.records, [fault], DISTURBED_S)[0]
        print(
            f"  worker {one.worker:2}: batch found, all given after {held}; started again"
            f" after {fault.restarted - fault.at:.2f} s, serving after {one.serving - one.at:.2f} s; {cost} violated",
            flush=True,
        )
    late = [batch.late_s for one in stops for batch in one.held]
    return [
        Check("stop: items found beyond twice the batch time", 1000 * max(late) if late else None, 1000 * FOUND_S, " ms", 0),
        Check("stop: started again after", max(fault.restarted - fault.at for fault in found.faults), RESTART_S, " s"),
        Check("stop: serving after", max(one.serving - one.at for one in stops), RESTART_S + planes.LOAD_S, " s"),
        Check("stop: requests without exactly one outcome", float(not found.conserved), 0.0, digits=0),
    ]
