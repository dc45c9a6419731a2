"""What the controller keeps of one server. Owns the record and what it says of itself; decides nothing."""

from __future__ import annotations

from math import inf

from loki_rl.core.servers.transition import Model, Target


class ServerRecord:
    """What is known of one server. server_type: position of its type; target: what it should serve; ordered: whether it was
    told; loads: seen so far; failed_at: when a load failed last [s]; held_until: it is told nothing before [s], for that."""

    __slots__ = (
        "batch", "failed_at", "held_until", "incarnation", "loading", "loads", "ordered", "resident", "server_type",
        "serving", "started", "target",
    )  # fmt: skip

    def __init__(self, incarnation: int, server_type: int = 0) -> None:
        self.incarnation = incarnation
        self.server_type = server_type
        self.serving: Model | None = None
        self.batch = 0
        self.loading: Model | None = None
        self.started = 0.0
        self.resident: Model | None = None
        self.loads = 0
        self.target: Target | None = None
        self.ordered = True
        self.held_until = -inf
        self.failed_at = -inf

    @property
    def busy(self) -> bool:
        return self.serving is not None or self.loading is not None

    @property
    def settled(self) -> bool:
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
