"""Which batch is in whose hands, until when it should be back, and whose is out for too long. Owns these records; decides
nothing about their items."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from loki_rl.core.effects import Kill
from loki_rl.core.messages import Result
from loki_rl.core.requests.items import Family
from loki_rl.core.routing.queue import Entry

# A worker is given up when its batch is overdue by this long, and by this many times what the batch usually takes.
GIVE_UP_S = 1.0
GIVE_UP_BATCHES = 8.0
# The word to end its process may be lost; it is said again.
AGAIN_S = 5.0


@dataclass(slots=True, eq=False)
class Lease:
    """A batch in a worker's hands. entries: its items with their places in the queue; families: its items; again: they were
    in the hands of a lost worker before; usual_s: what it takes on such a server [s]; patience_s: how long it may take;
    expiry: when it should be back [s]; ahead, behind: the batches that its worker runs before and after it, -1 if none."""

    worker: int
    incarnation: int
    variant: int
    entries: list[Entry]
    families: list[Family]
    again: bool
    usual_s: float
    patience_s: float
    ahead: int = -1
    behind: int = -1
    expiry: float = inf


class _Expiry(NamedTuple):
    at: float
    batch: int


class _Overdue(NamedTuple):
    """Of a worker: the life whose batch is overdue, and when its process is to be ended [s]."""

    incarnation: int
    kill_at: float


class Leases:
    """all: batch -> lease in force."""

    def __init__(self) -> None:
        self.all: dict[int, Lease] = {}
        self._expiries: list[_Expiry] = []
        self._overdue: dict[int, _Overdue] = {}

    @property
    def next_expiry(self) -> float:
        """When the next batch should be back, or the next process is to be ended [s]; infinite if none is out."""
        expiry = self._expiries[0].at if self._expiries else inf
        return min(expiry, *(one.kill_at for one in self._overdue.values())) if self._overdue else expiry

    def give(self, batch: int, lease: Lease, now: float) -> None:
        """Behind a batch that still runs (its credit was given early), the time for this one counts from that one's."""
        before = self.all.get(lease.ahead)
        if before is None:
            lease.ahead, lease.expiry = -1, now + lease.patience_s
        else:
            before.behind, lease.expiry = batch, max(now, before.expiry) + lease.patience_s
        self.all[batch] = lease
        heapq.heappush(self._expiries, _Expiry(lease.expiry, batch))

    def end(self, result: Result, now: float) -> Lease | None:
        """The lease that this result is for, now ended; None if it is not in force for that life of that worker."""
        if self._overdue:
            overdue = self._overdue.get(result.worker)
            if overdue is not None and overdue.incarnation == result.incarnation:
                del self._overdue[result.worker]
        lease = self.all.get(result.batch)
        if lease is None or lease.worker != result.worker or lease.incarnation != result.incarnation:
            return None
        del self.all[result.batch]
        behind = self.all.get(lease.behind)
        if behind is not None:
            self._move_up(behind, lease, now)
        expiries = self._expiries
        while expiries and expiries[0].batch not in self.all:
            heapq.heappop(expiries)
        return lease

    def _move_up(self, behind: Lease, ended: Lease, now: float) -> None:
        """It begins: its time counts from now, no more from when the one before should have ended. Unless that was given
        back before its turn."""
        behind.ahead = ended.ahead
        ahead = self.all.get(ended.ahead)
        if ahead is not None:
            ahead.behind = ended.behind
        elif now + behind.patience_s < behind.expiry:
            behind.expiry = now + behind.patience_s
            heapq.heappush(self._expiries, _Expiry(behind.expiry, ended.behind))

    def lapse(self, now: float) -> list[Lease]:
        """The leases of a worker whose batch should have come back by now, if there is one: that of the batch it runs, then
        those that wait behind it. They have ended, but for a batch that was lost before: it stays with its worker to the end
        of that. The worker's process is watched from now on."""
        while self._expiries and self._expiries[0].at <= now:
            expiry, batch = heapq.heappop(self._expiries)
            lease = self.all.get(batch)
            if lease is not None and lease.expiry == expiry:  # else it was brought forward
                runs = next(number for number, other in self.all.items() if other.worker == lease.worker)
                lapsed = self._take(lease.worker)
                give_up = now + max(GIVE_UP_S, GIVE_UP_BATCHES * lapsed[0].usual_s)
                self._overdue.setdefault(lease.worker, _Overdue(lease.incarnation, give_up))
                if lapsed[0].again:
                    self.all[runs] = lapsed[0]
                return lapsed
        return []

    def lose(self, worker: int) -> list[Lease]:
        """All leases of a worker whose process has ended, ended too: that of the batch it ran, then those that waited."""
        self._overdue.pop(worker, None)
        return self._take(worker)

    def given_up(self, now: float) -> list[Kill]:
        """Processes to end, since a batch has been overdue for too long."""
        due = [(number, one.incarnation) for number, one in self._overdue.items() if one.kill_at <= now]
        for number, incarnation in due:
            self._overdue[number] = _Overdue(incarnation, now + AGAIN_S)
        return [Kill(number, incarnation, "its batch is overdue") for number, incarnation in due]

    def _take(self, worker: int) -> list[Lease]:
        """In the order in which they were given, which is that in which they run."""
        return [self.all.pop(batch) for batch in [batch for batch, lease in self.all.items() if lease.worker == worker]]
