"""What a worker asks of whatever executes models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from loki_rl.errors import FailureError
from loki_rl.serving.engines.adapter import Array, Produced


class EngineError(FailureError):
    """The host cannot run a model as asked; the message is one sentence on what is wrong and what to do."""


class Engine(Protocol):
    """Executes variants of one pipeline on one server, each by the names of its task and its own. A thread may load one
    variant while another thread runs a second."""

    def load(self, task: str, variant: str) -> float:
        """Make a variant ready, warm-up included; at once if it is resident. How long that took [s]. Raises EngineError."""

    def unload(self, task: str, variant: str) -> None:
        """Free a variant; nothing happens if it is not resident."""

    def look(self, task: str, variant: str, count: int, budget_s: float) -> list[float]:
        """How long `count` sample items take one by one, without waiting for a core [s]; fewer, but at least one, where
        budget_s is spent, and the first one, which warms up, not counted.

        Raises EngineError as `run` does."""

    def run(self, task: str, variant: str, payloads: Sequence[Array]) -> list[Produced]:
        """One result for each of the payloads, in order. One that goes wrong gets `Produced.error` and spares the others.

        Raises EngineError if the variant is not resident or the model fails."""
