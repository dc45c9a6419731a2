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
        self._wishes = wishes
        self._next = len(wishes.retries)
        # Of what comes again: key -> place in the trace, retries left.
        self._again: dict[int, tuple[int, int]] = {}

    def request(self, key: int) -> Arrived:
        """What arrives."""
        wishes, (place, _) = self._wishes, self._origin(key)
        qos = QoS(float(wishes.min_accuracy[place]), int(wishes.priority[place]))
        timeout_s = 0.0 if wishes.timeout_s is None else float(wishes.timeout_s[place])
        return Arrived([key], [timeout_s], {} if qos == USUAL else {key: qos})

    def come_again(self, reply: Reply, now: float) -> Arrived | None:
        """The request that follows this answer, reply.retry_s later; None if its client does not come again."""
        place, retries = self._origin(reply.key)
        self._again.pop(reply.key, None)
        if not retries or not reply.retry_s:
            return None
        key, self._next = self._next, self._next + 1
        self._again[key] = place, retries - 1
        self.back_at = max(self.back_at, now + reply.retry_s)
        return self.request(key)

    def _origin(self, key: int) -> tuple[int, int]:
        return self._again.get(key) or (key, int(self._wishes.retries[key]))
