"""The emulated engine that does wrong when it is ordered to: models that take too long, never return, end their process, or
cannot be loaded."""

from __future__ import annotations

import os

from loki_rl.core.effects import Effect, Load, Run
from loki_rl.core.messages import Loaded
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.chaos.orders import ABORT, HANG, MISSING, Standing
from loki_rl.serving.engines.emulated import EmulatedEngine
from loki_rl.serving.transport.payloads import WorkerPayloads


class TrialEmulatedEngine(EmulatedEngine):
    """node: whose engine it is."""

    def __init__(self, options: ClusterOptions, node: str, standing: Standing) -> None:
        super().__init__(options)
        self._node = node
        self._standing = standing

    def carry(self, address: str, effect: Effect, now: float) -> None:
        if isinstance(effect, Load):
            task = self._options.pipeline.tasks[effect.task]
            name = f"{task.name}/{task.variants[effect.variant].name}"
            what = self._standing.orders().spoilt.get(name)
            if what is not None:
                error = f"there is no model of '{name}'" if what == MISSING else f"the model of '{name}' is damaged"
                self.end(now, address, Loaded(effect.task, effect.variant, 0.0, error))
                return
        super().carry(address, effect, now)

    def seconds(self, address: str, run: Run) -> float:
        return super().seconds(address, run) * self._standing.orders().slow.get(self._node, 1.0)

    def carry_cursed(self, address: str, payloads: WorkerPayloads, effect: Effect, now: float) -> None:
        """As carry, but for a batch with a payload that is cursed."""
        if isinstance(effect, Run):
            curse = self._standing.orders().curse(payloads.take(effect.batch).values())
            if curse == ABORT:
                os.abort()
            if curse == HANG:
                return
        self.carry(address, effect, now)
