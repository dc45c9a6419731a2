"""Shadows of a live plane: other policies meet the requests that it meets, each in an event twin, and TensorBoard shows them
beside it while it serves.

A process of its own, which follows the recording of the plane. It is nice to the plane; where it falls behind, the curve
shadow/behind_s says so, and nothing is left out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from math import inf
from pathlib import Path

from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan
from loki_rl.core.requests.items import QoS
from loki_rl.core.requests.ledger import Second, Tally, summarise
from loki_rl.env.stepped import SteppedTwin
from loki_rl.errors import UserError
from loki_rl.flight.file import Head, Tail, read_head
from loki_rl.flight.packing import Part
from loki_rl.flight.rows import Answer, Arrival, Begun, Usage
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.shadow_figures import shadow_folder, write_figures
from loki_rl.runs.recorded.what_if import LiveTally, options_of
from loki_rl.runs.run import habits_of, interval_of, policy_of
from loki_rl.runs.run_folder import folder_for
from loki_rl.runs.tensorboard.curves import point
from loki_rl.runs.tensorboard.event_files import Stream, scalars
from loki_rl.runs.tensorboard.tags import DESCRIPTIONS
from loki_rl.runs.tensorboard.telemetry import write_overview
from loki_rl.serving.process import parent_watch

NICE = 10
# How often it is looked for news [s].
LOOK_S = 0.25
# What has been shown is kept for so long [s] and so many plans, since it may still be asked for.
KEEP_S, KEEP_PLANS = 60, 600
# A second's servers are counted so long after its end [s], and its requests are answered so long after their limit.
SAMPLED_S, PATIENCE_S = 0.5, 2.0
# Time to show what has come meanwhile, once this is told to stop [s].
LAST_S = 3.0


class Curve:
    """The curves of a run that goes on, a point for each second that is over. folder: where they go. wait_s: longest wait
    for the answers of a second's requests [s]. Raises OSError."""

    def __init__(self, folder: Path, wait_s: float) -> None:
        self._stream = Stream(folder)
        self._wait_s = wait_s
        self._next = 0
        self._accuracy: float | None = None

    def write(self, tally: Tally, known: float, more: dict[str, float], last: bool = False) -> None:
        """What is over by now, when all that came before `known` [s] has been counted; and let the tally forget it. more:
        values beside its own. last: nothing will come any more."""
        while self._over(tally, known, last):
            second = tally.seconds.get(self._next, Second())
            ok = second.outcomes[Outcome.OK]
            self._accuracy = second.accuracy_sum / ok if ok else self._accuracy
            values = point(second, self._accuracy, _in_force(tally, self._next + 1.0))
            self._stream.write(scalars(self._next, values | more, None if self._next else DESCRIPTIONS))
            self._next += 1
        tally.trim(self._next - KEEP_S, KEEP_PLANS)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def _over(self, tally: Tally, known: float, last: bool) -> bool:
        end = self._next + 1.0
        second = tally.seconds.get(self._next)
        answered = last or second is None or not second.open
        return end + SAMPLED_S <= known and (answered or end + self._wait_s <= known)


def _in_force(tally: Tally, time: float) -> Plan | None:
    return next((record.plan for record in reversed(tally.plans) if record.time < time), None)


class Shadow:
    """A policy that meets what the plane meets."""

    def __init__(self, options: RunOptions, cluster: ClusterOptions) -> None:
        self.options = options
        policy = make_policy(options.policy, cluster.pipeline, policy_of(options, cluster))
        self.twin = SteppedTwin(cluster, policy.decide, habits_of(options, cluster.pipeline))


class Follower:
    """Of one recording. Once it is closed, figures of all that each shadow did are in a file. Raises RequestError for a
    policy that cannot be a shadow, OSError where files cannot be written."""

    def __init__(self, head: Head, recorded: RunOptions, policies: Sequence[str], logdir: Path) -> None:
        self._cluster = head.cluster
        self._runs = [replace(recorded, policy=name, driver="twin") for name in policies]
        self._recorded = recorded
        self._logdir = logdir
        slo_s = head.cluster.pipeline.slo_s
        grace_s = slo_s if head.cluster.grace_s is None else head.cluster.grace_s
        self._wait_s = slo_s + grace_s + PATIENCE_S
        self._live = LiveTally()
        self._known = -inf
        self._shadows: list[Shadow] = []
        self._curves: list[Curve] = []

    def add(self, part: Part) -> None:
        """What came next in the recording."""
        if Begun in part.columns:
            self._begin()
        self._live.add(part)
        origin = self._live.origin
        if origin is None:
            return
        self._known = max(self._known, *(time - origin for time in _times(part, origin)), -inf)
        for shadow in self._shadows:
            self._play(shadow.twin, part, origin)
        self._write(origin, last=False)

    def close(self) -> None:
        """Show what there is of the last seconds."""
        if self._live.origin is not None:
            self._known += SAMPLED_S
            for shadow in self._shadows:
                shadow.twin.run_until(self._known)
            self._write(self._live.origin, last=True)
            self._sum_up()
        self._end()

    def _begin(self) -> None:
        """The plane counts anew, and so does everybody."""
        self._end()
        self._known = -inf
        self._shadows = [Shadow(run, replace(self._cluster, interval_s=interval_of(run))) for run in self._runs]
        runs = [self._recorded, *self._runs]
        self._curves = [Curve(folder_for(run, "live", self._logdir), self._wait_s) for run in runs]

    def _end(self) -> None:
        for curve in self._curves:
            curve.close()
        self._curves = []

    def _sum_up(self) -> None:
        """What each does in all: the plane answers what it has before it stops, and so do they."""
        best, servers = self._cluster.pipeline.best_accuracy, self._cluster.servers
        for shadow in self._shadows:
            shadow.twin.run_until(self._known + self._wait_s)
            tally = shadow.twin.tally
            tally.fail_open()
            folder = shadow_folder(self._recorded, shadow.options.policy, self._logdir)
            write_figures(folder, summarise(tally, best, servers))

    def _play(self, twin: SteppedTwin, part: Part, origin: float) -> None:
        if Arrival in part.columns:
            for at, timeout_s, min_accuracy, priority in part.columns[Arrival].tolist():
                if at >= origin:
                    twin.arrive(at - origin, timeout_s, QoS(min_accuracy, priority))
        if self._known > 0:
            twin.run_until(self._known)

    def _write(self, origin: float, last: bool) -> None:
        """Each in its curves, the plane itself first."""
        live, *others = self._curves
        live.write(self._live.tally, self._known, {}, last)
        for shadow, curve in zip(self._shadows, others, strict=True):
            behind_s = time.monotonic() - (origin + shadow.twin.now)
            curve.write(shadow.twin.tally, self._known, {"shadow/behind_s": behind_s}, last)
        for curve in self._curves:
            curve.flush()


def _times(part: Part, origin: float) -> Iterable[float]:
    """Up to when the gateway has told all that came: it writes in order of time."""
    for kind in (Arrival, Answer):
        if kind in part.columns:
            yield float(part.columns[kind]["at"][-1])
    if Usage in part.columns:
        yield origin + float(part.columns[Usage]["second"][-1]) + 1.0


def follow(path: Path, policies: Sequence[str], logdir: Path, stopped: threading.Event) -> None:
    """Until it is stopped. Raises FlightError, RequestError or OSError."""
    head = read_head(path)
    write_overview(logdir)
    follower = Follower(head, options_of(path, head), policies, logdir)
    with closing(Tail(path)) as tail, closing(follower):
        while not stopped.is_set():
            _read(tail, follower, stopped.is_set)
            stopped.wait(LOOK_S)
        deadline = time.monotonic() + LAST_S
        _read(tail, follower, lambda: time.monotonic() > deadline)


def _read(tail: Tail, follower: Follower, enough: Callable[[], bool]) -> None:
    for part in tail.poll():
        follower.add(part)
        if enough():
            return


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loki_rl.runs.recorded.shadows", description=__doc__)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--policies", required=True, help="names, separated by commas")
    parser.add_argument("--logdir", type=Path, required=True)
    given = parser.parse_args()
    os.nice(NICE)
    parent_watch.hold()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        follow(given.recording, given.policies.split(","), given.logdir, stopped)
    except (UserError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
