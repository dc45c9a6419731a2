"""A twin that is told of requests while it runs: it plays as far as is known what came."""

from __future__ import annotations

from loki_rl.core.messages import GATEWAY, Arrived
from loki_rl.core.options import ClusterOptions
from loki_rl.core.requests.items import QoS
from loki_rl.core.requests.ledger import Tally
from loki_rl.env.world import Decide, Habits, World, slowest_load_s

USUAL = QoS()


class SteppedTwin:
    """Plays what `env.simulate.simulate` would play of the same requests. Times count from the begin of the run [s]. habits:
    as there."""

    def __init__(self, options: ClusterOptions, decide: Decide, habits: Habits | None = None) -> None:
        self._world = World(options, decide, start=-(slowest_load_s(options, habits) + 1.0), habits=habits)
        self._world.begin(0.0)
        self._world.run_until(0.0)
        self._arrived = 0

    def arrive(self, time: float, timeout_s: float, qos: QoS) -> None:
        """A request came, no earlier than all that were told of before. timeout_s, qos: as in Arrived."""
        self._world.run_until(time)
        key, self._arrived = self._arrived, self._arrived + 1
        self._world.tell(GATEWAY, Arrived([key], [timeout_s], {} if qos == USUAL else {key: qos}), time)

    def run_until(self, time: float) -> None:
        """No other request comes up to this time."""
        self._world.run_until(time)

    @property
    def now(self) -> float:
        """How far it has played."""
        return self._world.kernel.now

    @property
    def tally(self) -> Tally:
        """What it has counted, to be trimmed by whoever keeps it for days."""
        return self._world.gateway.tally
