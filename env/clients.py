"""The clients of a run: what each request asks for, and when one that was told to come again does. Decides nothing."""

from __future__ import annotations

from loki_rl.core.effects import Reply
from loki_rl.core.messages import Arrived
from loki_rl.core.requests.items import QoS
from loki_rl.traces.demand import Wishes

USUAL = QoS()


class Clients:
    """The key of a request is its place in the trace; one that comes again has a key of its own. back_at: when the last of
    those comes [s]."""

    def __init__(self, wishes: Wishes) -> None:
        self.back_at = 0.0
        asked = map(QoS, wishes.min_accuracy.tolist(), wishes.priority.tolist())
        self._open = dict(enumerate(zip(asked, wishes.retries.tolist(), strict=True)))  # key -> QoS, retries left
        self._next = len(self._open)

    def request(self, key: int) -> Arrived:
        """What arrives."""
        qos, _ = self._open[key]
        return Arrived([key], [0.0], {} if qos == USUAL else {key: qos})

    def come_again(self, reply: Reply, now: float) -> Arrived | None:
        """The request that follows this answer, reply.retry_s later; None if its client does not come again."""
        qos, retries = self._open.pop(reply.key)
        if not retries or not reply.retry_s:
            return None
        key, self._next = self._next, self._next + 1
        self._open[key] = qos, retries - 1
        self.back_at = max(self.back_at, now + reply.retry_s)
        return self.request(key)
