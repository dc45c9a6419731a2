"""The policy beside the controller's loop: it thinks in a thread, and its plan comes back as an event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from loki_rl.core.effects import Effect, Solve
from loki_rl.core.messages import CONTROLLER, Planned
from loki_rl.core.plan import Plan, Snapshot
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.event_queue import EventQueue
from loki_rl.serving.transport.serial_executor import SerialExecutor
from loki_rl.serving.transport.wire import Letter

log = logging.getLogger(__name__)


class Policy(Protocol):
    """Makes plans."""

    def decide(self, snapshot: Snapshot) -> Plan:
        """The plan from now on. May raise: the plan in force then stays."""


PolicyFactory = Callable[[], Policy]


class PlannerThread:
    """make: called here and now, so that a policy that cannot be made fails at the start. finished: where Planned goes."""

    def __init__(self, make: PolicyFactory, finished: EventQueue[Delivery]) -> None:
        self._policy = make()
        self._finished = finished
        self._executor = SerialExecutor("policy")

    def carry(self, effect: Effect, _now: float) -> None:
        if not isinstance(effect, Solve):
            raise TypeError(f"a planner cannot carry out {type(effect).__name__}")
        self._executor.put(partial(self._solve, effect.snapshot))

    def close(self, timeout_s: float) -> None:
        self._executor.close(timeout_s)

    def _solve(self, snapshot: Snapshot) -> None:
        try:
            answer = Planned(self._policy.decide(snapshot))
        except Exception as error:
            log.exception("the policy failed")
            answer = Planned(None, str(error) or type(error).__name__)
        self._finished.put((Letter(CONTROLLER, answer, ()), ()))
