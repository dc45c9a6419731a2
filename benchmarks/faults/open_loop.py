"""A client that sends requests by Poisson arrivals, whatever became of those before, and writes down of each when it was
sent, and how, when and how often it ended. Owns that record; must not know which faults happen meanwhile."""

from __future__ import annotations

import math
import random
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.serving.gateway.client import Client, ClientError, Inference
from loki_rl.serving.load.http_sender import HttpSender

# A request that has no end so long after it was sent never gets one [s].
LOST_S = 10.0
BURST = 32


class Record(Struct):
    """Times are of the monotonic clock [s], NaN for what did not happen. due: when it should have been sent. outcome: of its
    first end, FAILED where it could not be sent."""

    due: float
    sent: float = math.nan
    ended: float = math.nan
    outcome: Outcome = Outcome.FAILED
    ends: int = 0

    def ok(self, slo_s: float) -> bool:
        """Whether it was answered well and in time, which counts from when it was due."""
        return self.outcome is Outcome.OK and self.ended - self.due <= slo_s

    @property
    def lost(self) -> bool:
        """Whether its client waits for ever."""
        return not self.ends and not math.isnan(self.sent)


class Sender(Protocol):
    def fileno(self) -> int: ...

    def send(self, number: int) -> bool: ...

    def ends(self) -> list[tuple[int, Outcome]]: ...

    def close(self) -> None: ...


class Native:
    """One native client."""

    def __init__(self, endpoint: str, slo_s: float) -> None:
        self._client = Client(endpoint)
        self._client.wait_ready()
        self._slo_s = slo_s
        self._numbers: dict[int, int] = {}
        self._poll = select.epoll()
        for fd in self._client.filenos():
            self._poll.register(fd, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def send(self, number: int) -> bool:
        try:
            self._numbers[self._client.submit(timeout_s=self._slo_s)] = number
        except ClientError:
            return False
        return True

    def ends(self) -> list[tuple[int, Outcome]]:
        answers = self._client.poll()
        return [(self._numbers[a.id], Outcome[a.outcome.upper()]) for a in answers if isinstance(a, Inference)]

    def close(self) -> None:
        self._poll.close()
        self._client.close()


class Http:
    """Keep-alive connections, one for each request in flight. A connection that closes ends its request: FAILED. payload:
    number of a request -> that of its payload."""

    def __init__(
        self,
        url: str,
        pipeline: str,
        slo_s: float,
        payloads: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] | None = None,
        payload: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self._sender = HttpSender(url, pipeline, payloads, slo_s)
        self._kinds = len(payloads or (None,))
        self._payload = payload

    def fileno(self) -> int:
        return self._sender.fileno()

    def send(self, number: int) -> bool:
        return self._sender.send(number * self._kinds + self._payload(number), QoS())

    def ends(self) -> list[tuple[int, Outcome]]:
        return [(seen.number // self._kinds, seen.outcome) for seen in self._sender.poll()]

    def close(self) -> None:
        self._sender.close()


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
            if self._senders[number % len(self._senders)].send(number):
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
            for number, outcome in sender.ends():
                record = self.records[number]
                record.ends += 1
                if record.ends == 1:
                    record.ended, record.outcome = now, outcome
                    self._open -= 1


def lag_ms(records: Sequence[Record]) -> float:
    """How much later than due the latest hundredth was sent: not small against the SLO, the client was the bottleneck."""
    lags = np.array([record.sent - record.due for record in records])
    return 1000 * float(np.nanpercentile(lags, 99)) if lags.size else 0.0
