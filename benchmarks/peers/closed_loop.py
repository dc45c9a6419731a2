"""Our own client with so many requests in flight over connections that stay open: for servers that no standard client can
ask, and for capacities. Both sides of a comparison are asked by it."""

from __future__ import annotations

import select
import time

import numpy as np
from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.serving.load.http_sender import HttpSender

# Of answers to what is in flight at the end.
PATIENCE_S = 30.0


class Looped(Struct):
    """served: answered well and in time, in so many seconds. failed: all others."""

    served: int
    p50_ms: float
    p99_ms: float
    failed: int


def closed_loop(sender: HttpSender, concurrency: int, seconds: float, limit_s: float) -> Looped:
    """Each answer makes room for the next request, for so long; what is answered later does not count, nor what takes longer
    than limit_s."""
    loop = _Loop(sender, limit_s)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        loop.fill(concurrency)
        loop.collect(end)
    while loop.sent and time.monotonic() < end + PATIENCE_S:
        loop.collect(end)
    found = loop.latencies or [float("nan")]
    p50_ms, p99_ms = (1000 * float(np.percentile(found, share)) for share in (50, 99))
    return Looped(len(loop.latencies), p50_ms, p99_ms, loop.failed + len(loop.sent))


class _Loop:
    """sent: number of a request in flight -> when. failed: answered otherwise than well, or not even sent."""

    def __init__(self, sender: HttpSender, limit_s: float) -> None:
        self._limit_s = limit_s
        self.sent: dict[int, float] = {}
        self.latencies: list[float] = []
        self.failed = 0
        self._sender, self._number = sender, 0

    def fill(self, concurrency: int) -> None:
        """Send as many as are missing, each tried once: where nothing listens that must not become a busy loop."""
        for _ in range(concurrency - len(self.sent)):
            began = time.monotonic()
            if self._sender.send(self._number, QoS()):
                self.sent[self._number] = began
            else:
                self.failed += 1
            self._number += 1

    def collect(self, end: float) -> None:
        """What has been answered, or a tenth of a second."""
        select.select([self._sender.fileno()], [], [], 0.1)
        now = time.monotonic()
        for seen in self._sender.poll():
            latency = now - self.sent.pop(seen.number)
            if seen.outcome is not Outcome.OK or latency > self._limit_s:
                self.failed += 1
            elif now < end:
                self.latencies.append(latency)
