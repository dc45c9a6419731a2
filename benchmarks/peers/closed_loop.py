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
    """served: answered well, in so many seconds. failed: all others."""

    served: int
    p50_ms: float
    p99_ms: float
    failed: int


def closed_loop(sender: HttpSender, concurrency: int, seconds: float) -> Looped:
    """Each answer makes room for the next request, for so long."""
    begin = time.monotonic()
    sent: dict[int, float] = {}
    latencies: list[float] = []
    failed, number, now = 0, 0, begin
    while now < begin + seconds or (sent and now < begin + seconds + PATIENCE_S):
        while now < begin + seconds and len(sent) < concurrency:
            sent[number] = time.monotonic()
            failed += not sender.send(number, QoS()) and sent.pop(number) > 0
            number += 1
        select.select([sender.fileno()], [], [], 0.1)
        now = time.monotonic()
        for seen in sender.poll():
            latency = now - sent.pop(seen.number)
            if seen.outcome is not Outcome.OK:
                failed += 1
            elif now < begin + seconds:
                latencies.append(latency)
    p50_ms, p99_ms = (1000 * float(np.percentile(latencies, share)) if latencies else float("nan") for share in (50, 99))
    return Looped(len(latencies), p50_ms, p99_ms, failed + len(sent))
