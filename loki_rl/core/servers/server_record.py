"""What the controller keeps of one server."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from loki_rl.core.messages import Report
from loki_rl.core.plan import Server
from loki_rl.core.servers.servers import Servers
from loki_rl.core.servers.transition import Model, Target


@dataclass(slots=True, eq=False)
class ServerRecord:
    """What is known of one server. server_type: position of its type; target: what it should serve; ordered: whether it was
    told; loads: seen so far; leaving_since: when plans began to want that it stops serving [s], infinite if they
    do not, or it was told; failed_at: when a load failed last [s]; held_until: it is told nothing before [s], for that."""

    incarnation: int
    server_type: int = 0
    serving: Model | None = None
    batch: int = 0
    loading: Model | None = None
    started: float = 0.0
    resident: Model | None = None
    loads: int = 0
    target: Target | None = None
    ordered: bool = True
    leaving_since: float = inf
    held_until: float = -inf
    failed_at: float = -inf

    def update(self, event: Report, serving: Model | None, loading: Model | None) -> int:
        """What it says of itself; how many loads it began since it last did."""
        begun = event.loads - self.loads
        self.serving, self.batch, self.loading = serving, event.batch, loading
        self.started, self.loads = event.started, event.loads
        self.resident = serving or (self.resident if loading is None else None)
        return begun

    def seen(self, number: int, servers: Servers, now: float) -> Server:
        """As a policy sees it."""
        loading, remaining_s = None, 0.0
        if self.loading is not None:
            loading = (*self.loading, self.batch)
            remaining_s = max(0.0, self.started + servers.pipelines[self.server_type].variant(*self.loading).load_s - now)
        serving = None if self.serving is None else (*self.serving, self.batch)
        resident = () if self.resident is None else (self.resident,)
        return Server(number, serving, resident, loading, remaining_s, servers.types[self.server_type].name)

    @property
    def busy(self) -> bool:
        return self.serving is not None or self.loading is not None

    @property
    def converged(self) -> bool:
        wanted = None if self.target is None else self.target[:2]
        return self.ordered and self.loading is None and self.serving == wanted

    @property
    def on_target(self) -> bool:
        """It does, or is about to do, what it should, whether or not it was told."""
        wanted, doing = self.target, self.loading or self.serving
        return doing is None if wanted is None else doing is not None and (*doing, self.batch) == wanted

    @property
    def swapping(self) -> bool:
        """It loads a model, or was told to and has not said so yet."""
        on_its_way = self.ordered and self.target is not None and self.serving != self.target[:2]
        return on_its_way or self.loading is not None
