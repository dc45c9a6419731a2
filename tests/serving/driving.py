"""Clients that drive a plane of real processes, and waiting for what it does."""

from __future__ import annotations

import atexit
import time
from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

from loki_rl.core.pipeline import Pipeline
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.transport.listening import listen

# A deadline that a busy machine does not miss either: what is tested here is who is served, not how fast.
PATIENCE_S = 30.0


def drive(client: Client, seconds: float, rps: float, during: Callable[[float], None] = lambda _: None) -> Counter[str]:
    """Send requests at a steady rate and count how they ended. during: called with the time since the begin."""
    begin, sent = time.monotonic(), 0
    found: list[Inference] = []
    while (age := time.monotonic() - begin) < seconds:
        during(age)
        while sent < age * rps:
            client.submit(timeout_s=PATIENCE_S)
            sent += 1
        found += [answer for answer in client.poll(0.005) if isinstance(answer, Inference)]
    while len(found) < sent:
        more = client.poll(2 * PATIENCE_S)
        assert more, "an answer is missing"
        found += [answer for answer in more if isinstance(answer, Inference)]
    return Counter(answer.outcome for answer in found)


def patient(pipeline: Pipeline) -> Pipeline:
    """Loads in no time and an SLO that a busy machine meets: these tests are about processes, not about speed."""
    tasks = tuple(
        replace(task, variants=tuple(replace(variant, load_s=0.05) for variant in task.variants)) for task in pipeline.tasks
    )
    return replace(pipeline, tasks=tasks, slo_s=5.0)


def eventually(done: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def held_port() -> int:
    """A port that nobody else gets while the tests run; a server may be told to listen there."""
    bound = listen("127.0.0.1", 0)
    atexit.register(bound.close)
    return int(bound.getsockname()[1])
