"""One process of a plane on trial: a node that follows the orders of a site."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

from loki_rl.serving.chaos.emulated import TrialEmulatedEngine
from loki_rl.serving.chaos.orders import Standing
from loki_rl.serving.engines.emulated import EmulatedEngine
from loki_rl.serving.engines.engine import Engine
from loki_rl.serving.plane import PlaneFile
from loki_rl.serving.process.node import Node, arguments, run
from loki_rl.serving.transport.driver import Carry
from loki_rl.serving.transport.multipart import Context
from loki_rl.serving.transport.payloads import WorkerPayloads

MODULE = "loki_rl.serving.chaos.node"


class TrialNode(Node):
    """site: where its orders are."""

    def __init__(self, site: Path, plane: PlaneFile, name: str, folder: Path, context: Context) -> None:
        self._standing = Standing(site)
        self._held: set[str] = set()
        super().__init__(plane, name, folder, context)
        self._usual = self.driver.after_burst
        self.driver.after_burst = self._after_burst

    def real_engine(self, number: int) -> Engine:
        # An emulated plane needs no runtime.
        from loki_rl.serving.chaos.real import TrialEngine
        from loki_rl.serving.engines.onnx_engine import OnnxEngine

        engine = super().real_engine(number)
        assert isinstance(engine, OnnxEngine)
        return TrialEngine(engine, self.spec.name, self._standing)

    def emulated_engine(self) -> EmulatedEngine:
        return TrialEmulatedEngine(self.plane.options, self.spec.name, self._standing)

    def emulated_carry(self, address: str, payloads: WorkerPayloads) -> Carry:
        engine = self.emulate()
        assert isinstance(engine, TrialEmulatedEngine)
        return partial(engine.carry_cursed, address, payloads)

    def _after_burst(self) -> None:
        self._withhold()
        if self._usual is not None:
            self._usual()

    def _withhold(self) -> None:
        """A node that has nothing to do looks every driver.REST_S."""
        mine = self.spec.name
        wanted = {there for pair in self._standing.orders().withheld for there in pair if mine in pair and there != mine}
        for node in wanted - self._held:
            self.mailbox.hold(node)
        for node in self._held - wanted:
            self.mailbox.release(node)
        self._held = wanted


def main() -> None:
    parser = arguments(MODULE)
    parser.add_argument("--site", type=Path, required=True, help="folder of its orders")
    chosen = parser.parse_args()
    run(chosen.folder, chosen.name, partial(TrialNode, chosen.site))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
