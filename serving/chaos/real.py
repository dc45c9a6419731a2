"""A real engine that does wrong when it is ordered to: see emulated.py."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from loki_rl.serving.chaos.orders import ABORT, HANG, Curse, Standing
from loki_rl.serving.engines.adapter import Array, Produced
from loki_rl.serving.engines.onnx_engine import OnnxEngine
from loki_rl.serving.transport.wire import pack


class TrialEngine:
    """A real one; as engine.Engine. node: whose it is."""

    def __init__(self, engine: OnnxEngine, node: str, standing: Standing) -> None:
        self._engine = engine
        self._repository = engine.repository
        self._node = node
        self._standing = standing

    def load(self, task: str, variant: str) -> float:
        what = self._standing.orders().spoilt.get(f"{task}/{variant}")
        self._engine.repository = self._repository if what is None else self._standing.site / what
        return self._engine.load(task, variant)

    def unload(self, task: str, variant: str) -> None:
        self._engine.unload(task, variant)

    def look(self, task: str, variant: str, count: int, budget_s: float) -> list[float]:
        return self._engine.look(task, variant, count, budget_s)

    def run(self, task: str, variant: str, payloads: Sequence[Array]) -> list[Produced]:
        orders = self._standing.orders()
        _suffer(orders.curse(map(pack, payloads)))
        began = time.monotonic()
        produced = self._engine.run(task, variant, payloads)
        time.sleep((orders.slow.get(self._node, 1.0) - 1.0) * (time.monotonic() - began))
        return produced


def _suffer(curse: Curse | None) -> None:
    if curse == ABORT:
        os.abort()
    if curse == HANG:
        threading.Event().wait()
