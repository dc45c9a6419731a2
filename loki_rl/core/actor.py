"""What a driver asks of an actor, and all that it may ask."""

from __future__ import annotations

from typing import Protocol

from loki_rl.core.effects import Effect
from loki_rl.core.messages import Event


class Actor(Protocol):
    """All decisions are made behind these three; a driver carries out what they return."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """React to one event at time `now` [s]. Raises TypeError for an event that is not for this actor."""
        ...

    def wake_at(self) -> float | None:
        """When the actor wants a Tick [s], or None."""
        ...

    def validate(self) -> None:
        """Raise AssertionError if the state contradicts itself (tests and --check only)."""
        ...
