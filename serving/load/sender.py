"""What a replay needs of a protocol."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.errors import FailureError
from loki_rl.serving.gateway.client import Inference
from loki_rl.serving.transport.protocol import RunLedger


class ReplayError(FailureError):
    """The replay cannot go on, because of what it was told to send or where; the message says which."""


class Seen(Struct):
    """The answer to request `number`, as the server tells it. accuracy: None where the server says nothing of it. waited_s:
    how long the sender had to hold the request back. answer: all of it, where the protocol gives it as it is. told: whether
    the plane said so; else its connection was lost, or a front end answered in its place. why: of one that failed."""

    number: int
    outcome: Outcome
    accuracy: float | None
    waited_s: float = 0.0
    answer: Inference | None = None
    told: bool = True
    why: str = ""


class Sender(Protocol):
    """A connection that never waits. grace_s: how long after its deadline a request may still be answered."""

    grace_s: float

    def fileno(self) -> int:
        """Readable when `poll` may have something."""
        ...

    def send(self, number: int, qos: QoS) -> bool:
        """Send one request; False if it could not even be sent."""
        ...

    def poll(self) -> list[Seen]:
        """Everything that has arrived; has looked until nothing was left."""
        ...

    def begin_run(self) -> bool:
        """Empty the server's ledger; False if it has none."""
        ...

    def ledger(self) -> RunLedger | None:
        """What the server counted since begin_run."""
        ...

    def close(self) -> None: ...
