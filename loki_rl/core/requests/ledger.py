"""The one definition of how requests end and what a run is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from itertools import takewhile

import msgspec
from msgspec import Struct

from loki_rl.core.messages import Cause, Outcome
from loki_rl.core.plan import Plan
from loki_rl.core.requests.histogram import LatencyHistogram
from loki_rl.core.requests.items import Served, Terms

VIOLATION_WEIGHT = 5.0
ACCURACY_WEIGHT = 1.0
SERVER_WEIGHT = 0.1


class Second(Struct):
    """One second of trace time. Outcomes, accuracy and latencies are those of the requests that *arrived* in it; servers
    (pulling or loading) and loads (models begun) are of that second itself."""

    arrivals: int = 0
    outcomes: list[int] = msgspec.field(default_factory=lambda: [0] * len(Outcome))
    accuracy_sum: float = 0.0
    open: int = 0
    servers: int = 0
    loads: int = 0

    def add(self, other: Second) -> None:
        """Make this the sum of both."""
        self.arrivals += other.arrivals
        self.outcomes = [a + b for a, b in zip(self.outcomes, other.outcomes, strict=True)]
        self.accuracy_sum += other.accuracy_sum
        self.open += other.open
        self.servers += other.servers
        self.loads += other.loads


class PlanRecord(Struct):
    """A plan and the trace time [s] from which it was in force."""

    time: float
    plan: Plan


class Tally(Struct):
    """Everything counted in one run. latencies: of ok and late requests; leaves and leaves_bad as in `leaf_violation_ratio`;
    executions: task executions that were committed. earlier: the sum of the seconds that are no longer kept one by one,
    earlier_s: how many they are (see `trim`)."""

    seconds: dict[int, Second] = {}
    latencies: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)
    leaves: int = 0
    leaves_bad: int = 0
    executions: int = 0
    plans: list[PlanRecord] = []
    earlier: Second = msgspec.field(default_factory=Second)
    earlier_s: int = 0

    def second(self, number: int) -> Second:
        found = self.seconds.get(number)
        if found is None:
            found = self.seconds[number] = Second()
        return found

    def shift(self, by: int) -> None:
        """Count seconds from another origin: each has the number that is `by` higher; what is then below 0 is let go."""
        self.seconds = {number + by: second for number, second in self.seconds.items() if number + by >= 0}

    def arrive(self, number: int) -> None:
        """A request arrived in this second; it is open until `close`."""
        second = self.second(number)
        second.arrivals += 1
        second.open += 1

    def close(self, number: int, outcome: Outcome, latency_s: float, accuracy: float) -> None:
        """It ended. accuracy counts for ok requests only, latency for ok and late ones."""
        second = self.second(number)
        second.open -= 1
        second.outcomes[outcome] += 1
        if outcome is Outcome.OK:
            second.accuracy_sum += accuracy
        if outcome <= Outcome.LATE:
            self.latencies.add(latency_s)

    def fail_open(self) -> None:
        """Nobody is left who could answer what is open."""
        for second in self.seconds.values():
            second.outcomes[Outcome.FAILED] += second.open
            second.open = 0

    def trim(self, oldest: int, plans: int) -> None:
        """Keep only the sum of the seconds before `oldest` in which nothing is open, and no more than the latest `plans`
        plans. For whoever counts for months: a second is 0.3 KB, a plan several."""
        for number in list(takewhile(oldest.__gt__, self.seconds)):
            if not self.seconds[number].open:
                self.earlier.add(self.seconds.pop(number))
                self.earlier_s += 1
        del self.plans[:-plans]

    def outcome(self, outcome: Outcome) -> int:
        return sum(second.outcomes[outcome] for second in self._all())

    @property
    def arrivals(self) -> int:
        return sum(second.arrivals for second in self._all())

    @property
    def accuracy_sum(self) -> float:
        return sum(second.accuracy_sum for second in self._all())

    @property
    def loads(self) -> int:
        return sum(second.loads for second in self._all())

    def _all(self) -> Iterator[Second]:
        yield self.earlier
        yield from self.seconds.values()

    def validate(self) -> None:
        """Every arrival is open or has ended in exactly one way."""
        for number, second in (("earlier", self.earlier), *self.seconds.items()):
            assert second.arrivals == second.open + sum(second.outcomes), f"second {number} does not add up"
            assert second.open >= 0, f"second {number} closed more than arrived"


class Summary(Struct):
    """The figures of a run (docs/glossary.md); None is what a server does not tell.

    arrivals: requests that came; each ends as one of ok, late, dropped, rejected, cancelled and failed. slo_violation_ratio:
    share of them that was not ok, 0..1; leaf_violation_ratio: the same of results at leaves. accuracy: mean of what was ok,
    0..1; 0.0 when nothing was. servers_mean: servers in use, mean over time [servers]. p50_ms, p99_ms: latency of the
    requests that ended ok or late. task_executions: items that models ran. switches: models loaded. cost_j: J, the less the
    better [per arrival].
    """

    arrivals: int
    ok: int
    late: int
    dropped: int
    rejected: int
    cancelled: int
    failed: int
    slo_violation_ratio: float
    leaf_violation_ratio: float | None
    accuracy: float | None
    servers_mean: float | None
    p50_ms: float
    p99_ms: float
    task_executions: int | None
    switches: int | None
    cost_j: float | None


def cost(arrivals: int, ok: int, accuracy_sum: float, best: float, servers_share: float, weight: float) -> float:
    """J = weight x violated share + accuracy lost by the ok ones (relative to `best`) per arrival + 0.1 x share of the
    servers in use. 0.0 accuracy terms when there are no arrivals."""
    if not arrivals:
        return SERVER_WEIGHT * servers_share
    lost = ok - accuracy_sum / best
    return weight * (arrivals - ok) / arrivals + ACCURACY_WEIGHT * lost / arrivals + SERVER_WEIGHT * servers_share


def summarise(tally: Tally, best_accuracy: float, servers: int, weight: float = VIOLATION_WEIGHT) -> Summary:
    """The figures of a tally whose requests have all ended. best_accuracy, servers: what the cost is relative to."""
    counts = [tally.outcome(outcome) for outcome in Outcome]
    arrivals, ok = tally.arrivals, counts[Outcome.OK]
    accuracy_sum = tally.accuracy_sum
    used = mean_servers(tally)
    return Summary(
        arrivals=arrivals,
        **{outcome.name.lower(): counts[outcome] for outcome in Outcome},
        slo_violation_ratio=1 - ok / arrivals if arrivals else 0.0,
        leaf_violation_ratio=tally.leaves_bad / tally.leaves if tally.leaves else 0.0,
        accuracy=accuracy_sum / ok if ok else 0.0,
        servers_mean=used,
        p50_ms=1000 * tally.latencies.percentile(0.5),
        p99_ms=1000 * tally.latencies.percentile(0.99),
        task_executions=tally.executions,
        switches=tally.loads,
        cost_j=cost(arrivals, ok, accuracy_sum, best_accuracy, used / servers, weight),
    )


def mean_servers(tally: Tally) -> float:
    """Time mean of the servers in use over the seconds up to the last arrival."""
    last = max((number for number, second in tally.seconds.items() if second.arrivals), default=-1)
    window = [second.servers for number, second in tally.seconds.items() if 0 <= number <= last]
    length = len(window) + tally.earlier_s
    return (sum(window) + tally.earlier.servers) / length if length else 0.0


@dataclass(slots=True, eq=False)
class Root:
    """One request on its way: what has been made, what has ended, and how well. cause, blame: the first outcome that spoils
    it, and what was told of that.

    spawned, ended:: items per task. A request is complete when both agree for every task, whatever the order in which the
    parts report; seen: first item of what has reported -> how many, which makes repeats harmless. expired: its time for an
    answer is over. terms: what it asks beyond the usual.
    """

    number: int
    key: int
    t0: float
    deadline: float
    second: int
    tasks: InitVar[int]
    terms: Terms | None = None
    spawned: list[int] = field(init=False)
    ended: list[int] = field(init=False)
    leaf_counts: list[int] = field(init=False)
    accuracy_sums: list[float] = field(init=False)
    deads: list[int] = field(init=False)
    dead_sums: list[float] = field(init=False)
    seen: dict[int, int] = field(default_factory=dict)
    leaves: list[Served] = field(default_factory=list)
    cause: Outcome | None = None
    blame: Cause | None = None
    replied: bool = False
    expired: bool = False
    lost: int = 0

    def __post_init__(self, tasks: int) -> None:
        self.spawned, self.ended, self.leaf_counts, self.deads = ([0] * tasks for _ in range(4))
        self.accuracy_sums, self.dead_sums = [0.0] * tasks, [0.0] * tasks

    @property
    def complete(self) -> bool:
        return self.ended == self.spawned

    @property
    def missing(self) -> int:
        """Items that were made but did not end well, as far as is known."""
        return max(0, sum(self.spawned) - sum(self.ended)) + self.lost
