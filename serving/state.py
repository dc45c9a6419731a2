"""What a plane tells of itself at one moment: requests, stages, plan, workers."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from msgspec import Struct, field

from loki_rl.core.messages import Outcome
from loki_rl.core.plan import Drift, Exclusion, Plan

# Upper bounds [s]: three per decade, so that a percentile read from them is within a factor of about two.
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram(Struct, array_like=True):
    """counts: per bound, not cumulative, and last of what is above all bounds. Not the ledger's histogram: Prometheus adds
    these up over instances and time, so their bounds are few and never change."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def add_all(self, values: list[float]) -> None:
        """A call per item would cost more than the counting."""
        counts = self.counts
        for seconds in values:
            counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += sum(values)

    @property
    def count(self) -> int:
        return sum(self.counts)


class SizeCount(Struct, array_like=True):
    """Batches of one size and the time [s] they took in all."""

    batches: int = 0
    seconds: float = 0.0


class VariantCount(Struct):
    """What one variant served since the plane began. queue: per item, from entering the stage to being given to a worker.
    compute: per batch. sizes: by items in a batch."""

    items: int = 0
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    sizes: dict[int, SizeCount] = {}

    @property
    def item_seconds(self) -> float:
        """Compute time [s] as items see it: each waits for its whole batch."""
        return sum(size * count.seconds for size, count in self.sizes.items())


class StageTotal(NamedTuple):
    """queue_s, compute_s: as its items see them, summed."""

    items: int
    batches: int
    queue_s: float
    compute_s: float


class Stage(Struct, tag=True):
    """A task. lost: outcome -> items that ended here without a result. drain_s: predicted time to serve the queue, None
    when nobody pulls. pulling: variant -> workers. variants: those that served anything."""

    task: str
    queued: int
    drain_s: float | None
    pulling: dict[str, int]
    lost: dict[str, int]
    variants: dict[str, VariantCount]

    @property
    def total(self) -> StageTotal:
        """Over its variants."""
        counts = self.variants.values()
        return StageTotal(
            sum(count.items for count in counts),
            sum(count.compute.count for count in counts),
            sum(count.queue.sum_s for count in counts),
            sum(count.item_seconds for count in counts),
        )


class WorkerState(Struct):
    """serving, loading: 'task/variant', or empty. batch: the largest it pulls. loads: models loaded since its start.
    server_type: empty where all servers are alike."""

    number: int
    serving: str
    batch: int
    loading: str
    loads: int
    server_type: str = ""


class Control(Struct, tag=True):
    """The controller. demand_rps: requests that arrived in the last whole second. failures: what went wrong, latest last.
    drift: what is not as profiled, and planned with as measured. excluded: what cannot be loaded, and planned without."""

    plan: Plan | None
    demand_rps: float
    workers: list[WorkerState]
    failures: list[str]
    drift: list[Drift] = []
    excluded: list[Exclusion] = []


class Requests(Struct):
    """Requests since the plane began. outcomes: as in core.messages.Outcome. latency: of ok and late ones. accuracy_sum:
    over the ok ones. served: variant path of a leaf -> leaves."""

    arrivals: int = 0
    in_flight: int = 0
    outcomes: list[int] = field(default_factory=lambda: [0] * len(Outcome))
    latency: Histogram = field(default_factory=Histogram)
    accuracy_sum: float = 0.0
    served: dict[str, int] = {}


class Trouble(Struct, frozen=True):
    """What a process of the plane could not do and goes on without.

    kind: journal, recording (it has ended), ledger (it is not kept for a restart of the gateway), disk (it is full), files
    (no more may be open), process (it cannot be started), folder (the run folder was removed), event (handling one failed).
    count: how often; said: of the last time; at_s: when that was, since clients are served (between processes: on the
    host's monotonic clock)."""

    process: str
    kind: str
    count: int = 0
    at_s: float = 0.0
    said: str = ""


class PlaneState(Struct):
    """uptime_s: since clients are served. ready: a warm worker pulls at every stage, and the plane is not about to stop.
    vanished: answers whose client was gone; malformed: messages of clients that were refused; turned: what processes in
    front of the gateway turned away, by reason. control: None while the controller does not answer. unready: why clients
    should not come, empty if they should. silent: tasks whose router does not answer. troubles: of all processes but front
    ends."""

    pipeline: str
    engine: str
    slo_s: float
    best_accuracy: float
    servers: int
    ready: bool
    uptime_s: float
    vanished: int
    malformed: int
    requests: Requests
    stages: list[Stage] = []
    control: Control | None = None
    unready: str = ""
    silent: list[str] = []
    troubles: list[Trouble] = []
    turned: dict[str, int] = {}


Part = Stage | Control
