"""Replay over the native front protocol."""

from __future__ import annotations

import selectors
from collections.abc import Sequence

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.items import QoS
from loki_rl.serving.gateway.client import Array, Client, ClientError, Inference, pack_payload
from loki_rl.serving.gateway.connection import LOST
from loki_rl.serving.load.sender import ReplayError, Seen
from loki_rl.serving.security.key_folder import ClientKeys
from loki_rl.serving.transport.protocol import Refused, RunLedger


class NativeSender:
    """A sender.Sender. Request n carries payload n modulo their number, packed once."""

    def __init__(
        self,
        endpoint: str,
        pipeline: str,
        payloads: Sequence[Array] | None,
        timeout_s: float,
        keys: ClientKeys | None = None,
    ) -> None:
        self._client = Client(endpoint, keys=keys)
        # One descriptor for both of the client's: answers, and the loss of the gateway.
        self._selector = selectors.DefaultSelector()
        for fd in self._client.filenos():
            self._selector.register(fd, selectors.EVENT_READ)
        self._timeout_s = timeout_s
        self._numbers: dict[int, int] = {}
        self._packed: list[bytes | None] = [pack_payload(payload) for payload in payloads] if payloads else [None]
        try:
            self.grace_s = self._described_as(pipeline)
        except BaseException:
            self.close()
            raise

    def _described_as(self, pipeline: str) -> float:
        described = self._client.description
        if described.pipeline != pipeline:
            raise ReplayError(f"'{self._client.endpoint}' serves pipeline '{described.pipeline}', not '{pipeline}'")
        return described.grace_s

    @property
    def unasked(self) -> int:
        """As in Client."""
        return self._client.unasked

    def fileno(self) -> int:
        return self._selector.fileno()

    def send(self, number: int, qos: QoS) -> bool:
        payload = self._packed[number % len(self._packed)]
        try:
            id = self._client.submit_packed(payload, self._timeout_s, min_accuracy=qos.min_accuracy, priority=qos.priority)
        except ClientError:
            return False
        self._numbers[id] = number
        return True

    def poll(self) -> list[Seen]:
        return [self._seen(answer) for answer in self._client.poll()]

    def _seen(self, answer: Inference | Refused) -> Seen:
        if isinstance(answer, Refused):
            raise ReplayError(f"a request was refused: {answer.message}")
        outcome = Outcome[answer.outcome.upper()]
        number, told = self._numbers.pop(answer.id), answer.reason != LOST
        return Seen(number, outcome, answer.accuracy, answer=answer, told=told, why=answer.reason)

    def begin_run(self) -> bool:
        self._client.begin_run()
        return True

    def ledger(self) -> RunLedger | None:
        return self._client.ledger()

    def close(self) -> None:
        self._selector.close()
        self._client.close()
