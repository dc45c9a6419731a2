"""A client that sends requests by Poisson arrivals, whatever became of those before, and writes down of each when it was
sent, and how, when and how often it ended. Owns that record; must not know which faults happen meanwhile."""

from __future__ import annotations

import math
import random
import select
import threading
import time
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.serving.load.sender import Seen, Sender

# A request that has no end so long after it was sent never gets one [s].
LOST_S = 10.0
BURST = 32


class Record(Struct):
    """Times are of the monotonic clock [s], NaN for what did not happen. due: when it should have been sent. outcome: of its
    first end, FAILED where it could not be sent. told: whether the plane said so, as in Seen."""

    due: float
    sent: float = math.nan
    ended: float = math.nan
    outcome: Outcome = Outcome.FAILED
    told: bool = False
    ends: int = 0

    def end(self, now: float, seen: Seen) -> None:
        """An answer, or what stands for it."""
        self.ends += 1
        if self.ends == 1:
            self.ended, self.outcome, self.told = now, seen.outcome, seen.told

    def ok(self, slo_s: float) -> bool:
        """Whether it was answered well and in time, which counts from when it was due."""
        return self.outcome is Outcome.OK and self.ended - self.due <= slo_s

    @property
    def lost(self) -> bool:
        """Whether its client waits for ever."""
        return not self.ends and not math.isnan(self.sent)


class OpenLoop:
    """`with OpenLoop([sender], rps) as loop: ...; records = loop.stop()`: sends in a thread of its own, in turn over the
    senders. count: what has been sent so far."""

    def __init__(self, senders: Sequence[Sender], rps: float, seed: int = 0) -> None:
        self.records: list[Record] = []
        self._senders = senders
        self._rps = rps
        self._chance = random.Random(seed)
        self._stopped = threading.Event()
        self._error: Exception | None = None
        self._open = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> OpenLoop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for sender in self._senders:
            sender.close()

    def stop(self) -> list[Record]:
        """Send no more, wait for what is open. Raises what the thread did."""
        self._stopped.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.records

    def check(self) -> None:
        """Raise what the thread did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._play()
        except Exception as error:
            self._error = error

    def _play(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            due = self._send(due)
            self._await(due)
        limit = time.monotonic() + LOST_S
        while self._open and time.monotonic() < limit:
            self._await(limit)

    def _send(self, due: float) -> float:
        """All that is due, but no more than a burst before answers are looked at; when the next one is."""
        for _ in range(BURST):
            now = time.monotonic()
            if due > now:
                break
            number = len(self.records)
            self.records.append(record := Record(due))
            if self._senders[number % len(self._senders)].send(number, QoS()):
                record.sent = now
                self._open += 1
            else:
                record.ended, record.ends = now, 1
            due += self._chance.expovariate(self._rps)
        return due

    def _await(self, until: float) -> None:
        self._collect()
        select.select(self._senders, [], [], max(0.0, min(0.1, until - time.monotonic())))
        self._collect()

    def _collect(self) -> None:
        now = time.monotonic()
        for sender in self._senders:
            for seen in sender.poll():
                record = self.records[seen.number]
                self._open -= not record.ends
                record.end(now, seen)


def lag_ms(records: Sequence[Record]) -> float:
    """How much later than due the latest hundredth was sent: not small against the SLO, the client was the bottleneck."""
    lags = np.array([record.sent - record.due for record in records])
    return 1000 * float(np.nanpercentile(lags, 99)) if lags.size else 0.0
