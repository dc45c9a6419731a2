"""What differs from the profile, in words: for the controller's log and for `top`. Owns the sentences; finds no drift."""

from __future__ import annotations

import logging

from loki_rl.core.messages import Backlog, Effect, Event
from loki_rl.core.plan import Drift

log = logging.getLogger(__name__)


class DriftLog:
    """Beside a controller: says once what plans count on from now on."""

    def __init__(self) -> None:
        self._told: dict[int, list[Drift]] = {}

    def record(self, event: Event, _effects: list[Effect], _now: float) -> None:
        if type(event) is not Backlog:
            return
        former, self._told[event.task] = self._told.get(event.task, []), event.drift
        for drift in event.drift:
            if drift not in former:
                log.warning("%s; plans count on that now", sentence(drift))


def sentence(drift: Drift) -> str:
    """What a variant does in service."""
    where = f" on '{drift.server_type}'" if drift.server_type else ""
    children = "".join(f", {mean:.3g} of '{child}' per item" for child, mean in drift.fanout.items())
    return f"measured: '{drift.variant}' of '{drift.task}'{where} takes {drift.slowdown:.2f} x its profiled time{children}"
