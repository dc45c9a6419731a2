"""What happens in each second of a run, told by how its requests were served: the mode of a plan is that of the demand which
it has room for, and that need not come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.ledger import Second
from loki_rl.runs.result import RunResult
from loki_rl.runs.tensorboard.curves import whole_seconds

Happening = Literal["fewer servers", "cheaper ones step in", "all servers", "cheaper models", "requests lost"]
HAPPENINGS: tuple[Happening, ...] = (
    "fewer servers",
    "cheaper ones step in",
    "all servers",
    "cheaper models",
    "requests lost",
)
# No more than this share of the requests lost is chance, and so is a single one; less than this below the most accurate
# models' accuracy is what variants that stand by take in passing.
LOST, CHANCE, CHEAPER = 0.05, 1, 0.02
# A second is judged with its neighbours on both sides, and what lasts less than this is part of what was before [s].
AROUND_S, LEAST_S = 1, 3


class Phase(Struct, frozen=True):
    """A stretch in which one thing happens. begin_s, end_s: trace time; demand_rps: mean; servers: fewest and most in use;
    accuracy: of what was served in time, 0..1, None if nothing was; lost: share of the requests that were not."""

    happening: Happening
    begin_s: int
    end_s: int
    demand_rps: float
    servers: tuple[int, int]
    accuracy: float | None
    lost: float


def happenings(done: RunResult) -> list[Happening]:
    """What happens in every second."""
    seconds = whole_seconds(done.tally, done.duration_s)
    return [_happening(done, _sum(seconds, number), second.servers) for number, second in enumerate(seconds)]


def _sum(seconds: Sequence[Second], number: int) -> Second:
    total = Second()
    for one in seconds[max(0, number - AROUND_S) : number + AROUND_S + 1]:
        total.add(one)
    return total


def _happening(done: RunResult, around: Second, servers: int) -> Happening:
    ok = around.outcomes[Outcome.OK]
    if around.arrivals - ok > max(LOST * around.arrivals, CHANCE):
        return "requests lost"
    part = servers < done.servers
    if ok and around.accuracy_sum / ok < done.best_accuracy - CHEAPER:
        return "cheaper ones step in" if part else "cheaper models"
    return "fewer servers" if part else "all servers"


def phases(done: RunResult) -> list[Phase]:
    """The run as stretches of LEAST_S at least, in order; together they are the whole run."""
    seconds = whole_seconds(done.tally, done.duration_s)
    return [phase_of(seconds, begin, end, what) for what, begin, end in _stretches(happenings(done))]


def _stretches(found: Sequence[Happening]) -> list[tuple[Happening, int, int]]:
    """What is too short goes to its elder neighbour, at the beginning to the younger one."""
    joined: list[tuple[Happening, int, int]] = []
    begin = 0
    for what, group in groupby(found):
        end = begin + len(list(group))
        if joined and (end - begin < LEAST_S or joined[-1][0] == what):
            joined[-1] = joined[-1][0], joined[-1][1], end
        elif joined and joined[-1][2] - joined[-1][1] < LEAST_S:
            joined[-1] = what, joined[-1][1], end
        else:
            joined.append((what, begin, end))
        begin = end
    return joined


def phase_of(seconds: Sequence[Second], begin_s: int, end_s: int, what: Happening) -> Phase:
    """The figures of a stretch of at least a second."""
    total, servers = Second(), [one.servers for one in seconds[begin_s:end_s]]
    for one in seconds[begin_s:end_s]:
        total.add(one)
    ok = total.outcomes[Outcome.OK]
    return Phase(
        what,
        begin_s,
        end_s,
        demand_rps=total.arrivals / (end_s - begin_s),
        servers=(min(servers), max(servers)),
        accuracy=total.accuracy_sum / ok if ok else None,
        lost=1 - ok / total.arrivals if total.arrivals else 0.0,
    )
