"""What goes wrong or is not as profiled, in words: for the controller's log and for `top`. Owns the sentences; finds
nothing itself."""

from __future__ import annotations

import logging

from loki_rl.core.messages import Backlog, Effect, Event, Report
from loki_rl.core.plan import Drift

log = logging.getLogger(__name__)


class ControlLog:
    """Beside a controller: says once what plans count on from now on, and why models cannot be loaded, which a launcher that
    waits for them has no other way to know."""

    def __init__(self) -> None:
        self._told: dict[int, list[Drift]] = {}
        self._failed: set[str] = set()

    def record(self, event: Event, _effects: list[Effect], _now: float) -> None:
        if type(event) is Report and event.error and event.error not in self._failed:
            self._failed.add(event.error)
            log.warning("worker %d: %s", event.worker, event.error)
        elif type(event) is Backlog:
            former, self._told[event.task] = self._told.get(event.task, []), event.drift
            for drift in event.drift:
                if drift not in former:
                    log.warning("%s; plans count on that now", sentence(drift))


def sentence(drift: Drift) -> str:
    """What a variant does in service."""
    where = f" on '{drift.server_type}'" if drift.server_type else ""
    children = "".join(f", {mean:.3g} of '{child}' per item" for child, mean in drift.fanout.items())
    return f"measured: '{drift.variant}' of '{drift.task}'{where} takes {drift.slowdown:.2f} x its profiled time{children}"
