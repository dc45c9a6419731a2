"""The memory of a gateway's process: once a second what it stands for is written down, and at the start of a later life
read again."""

from __future__ import annotations

import logging
import time
from math import inf
from pathlib import Path

import msgspec
from msgspec.structs import replace

from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import GATEWAY, Restored
from loki_rl.core.requests.ledger import Tally
from loki_rl.serving.gateway.client_socket import ClientSocket
from loki_rl.serving.gateway.gateway_adapter import GatewayAdapter
from loki_rl.serving.gateway.ledger_snapshot import SnapshotWriter, Standing, read_snapshot
from loki_rl.serving.observe.meter import RequestMeter
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.troubles import Troubles
from loki_rl.serving.transport.wire import Letter

log = logging.getLogger(__name__)

# A plane may run for months: it keeps a day second by second and its latest plans, some 40 MB, and sums of what was before.
KEEP_S = 86_400
KEEP_PLANS = 2000


class LedgerKeeper:
    """file: where to keep it. troubles: of the gateway's process."""

    def __init__(
        self,
        file: Path,
        gateway: Gateway,
        front: ClientSocket,
        gateway_adapter: GatewayAdapter,
        meter: RequestMeter,
        troubles: Troubles,
    ) -> None:
        self._file = file
        self._gateway = gateway
        self._front = front
        self._gateway_adapter = gateway_adapter
        self._meter = meter
        self._troubles = troubles
        self._writer = SnapshotWriter(file)
        self._kept: Tally | None = None
        self._next_second = inf

    def restore(self) -> list[Delivery]:
        """Serve clients as the life before did, and what to tell the gateway before anything else."""
        found = read_snapshot(self._file)
        if found is None:
            log.warning("nothing is known of the gateway's former life: its ledger begins anew")
            self._gateway_adapter.reopen(time.monotonic(), False)
            return []
        standing, tally = found
        self._meter.restore(standing.requests)
        self._front.vanished, self._front.malformed = standing.vanished, standing.malformed
        self._gateway_adapter.reopen(standing.opened, standing.leaving)
        event = replace(standing.gateway, tally=msgspec.msgpack.encode(tally))
        return [(Letter(GATEWAY, event, ()), ())]

    def look(self, now: float) -> None:
        """Write down what there is when a second has been counted, and a run that has begun at once."""
        gateway, tally, next_second = self._gateway, self._gateway.tally, self._gateway.seconds.next
        if next_second == self._next_second and tally is self._kept:
            return
        opened = self._gateway_adapter.opened
        if next_second == inf or opened is None:
            return
        self._next_second, self._kept = next_second, tally
        second = round(next_second - gateway.seconds.origin) - 1
        tally.trim(second - KEEP_S, KEEP_PLANS)
        failures = self._writer.failures
        self._writer.write(self._standing(second, opened), tally, second - KEEP_S, now)
        if self._writer.failures > failures:
            self._troubles.record("ledger", self._writer.failure)

    def close(self, timeout_s: float) -> None:
        self._writer.close(timeout_s)

    def _standing(self, second: int, opened: float) -> Standing:
        gateway, front = self._gateway, self._front
        stands = Restored(gateway.seconds.origin, second, gateway.arrived, gateway.next_root, gateway.draining, b"")
        return Standing(stands, front.leaving, opened, front.vanished, front.malformed, self._meter.state())
