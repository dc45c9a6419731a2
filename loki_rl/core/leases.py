"""Which batch is in whose hands, and until when it should be back. Owns these records; decides nothing about their items."""

from __future__ import annotations

import heapq
from math import inf

from loki_rl.core.families import Family
from loki_rl.core.messages import Result
from loki_rl.core.queue import Entry


class Lease:
    """A batch in a worker's hands. entries: its items with their places in the queue; families: its items; expiry: when it
    should be back [s]."""

    __slots__ = ("entries", "expiry", "families", "incarnation", "variant", "worker")

    def __init__(self, worker: int, incarnation: int, variant: int, entries: list[Entry]) -> None:
        self.worker = worker
        self.incarnation = incarnation
        self.variant = variant
        self.entries = entries
        self.families: list[Family] = [entry[3] for entry in entries]
        self.expiry = inf


class Leases:
    """all: batch -> lease in force."""

    def __init__(self) -> None:
        self.all: dict[int, Lease] = {}
        self._expiries: list[tuple[float, int]] = []

    @property
    def next_expiry(self) -> float:
        """When the next batch should be back [s]; infinite if none is out."""
        return self._expiries[0][0] if self._expiries else inf

    def give(self, batch: int, lease: Lease) -> None:
        self.all[batch] = lease
        heapq.heappush(self._expiries, (lease.expiry, batch))

    def end(self, result: Result) -> Lease | None:
        """The lease that this result is for, now ended; None if it is not in force for that life of that worker."""
        lease = self.all.get(result.batch)
        if lease is None or lease.worker != result.worker or lease.incarnation != result.incarnation:
            return None
        del self.all[result.batch]
        expiries = self._expiries
        while expiries and expiries[0][1] not in self.all:
            heapq.heappop(expiries)
        return lease

    def revoke(self, worker: int) -> list[Lease]:
        """All leases of a worker, now ended."""
        batches = [batch for batch, lease in self.all.items() if lease.worker == worker]
        return [self.all.pop(batch) for batch in batches]

    def overdue(self, now: float) -> int | None:
        """A worker whose batch should have come back by now."""
        while self._expiries and self._expiries[0][0] <= now:
            lease = self.all.get(heapq.heappop(self._expiries)[1])
            if lease is not None:
                return lease.worker
        return None
