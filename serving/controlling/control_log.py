"""What goes wrong or is not as profiled, in words: for the controller's log and for `top`."""

from __future__ import annotations

import logging

from loki_rl.core.effects import Effect, Solve
from loki_rl.core.messages import Backlog, Event, Report
from loki_rl.core.plan import Drift, Exclusion

log = logging.getLogger(__name__)


class ControlLog:
    """Beside a controller: says once what plans count on from now on, why models cannot be loaded, which a launcher that
    waits for them has no other way to know, and which of these are planned without."""

    def __init__(self) -> None:
        self._told: dict[int, list[Drift]] = {}
        self._failed: set[str] = set()
        self._excluded: set[Exclusion] = set()

    def record(self, event: Event, effects: list[Effect], _now: float) -> None:
        if type(event) is Report and event.error and event.error not in self._failed:
            self._failed.add(event.error)
            log.warning("worker %d: %s", event.worker, event.error)
        elif type(event) is Backlog:
            former, self._told[event.task] = self._told.get(event.task, []), event.drift
            # A host that others use moves all variants at once, and again and again.
            news = [sentence(drift) for drift in event.drift if drift not in former]
            if news:
                log.warning("%s; plans count on that now", "; ".join(news))
        for effect in effects:
            if type(effect) is Solve:
                self._without(effect.snapshot.exclusions)

    def _without(self, exclusions: tuple[Exclusion, ...]) -> None:
        for one in exclusions:
            if one not in self._excluded:
                self._excluded.add(one)
                log.warning("%s; plans do without it, and try it again from time to time", missing(one))


def missing(one: Exclusion) -> str:
    """What cannot be loaded, and why."""
    where = f" on '{one.server_type}'" if one.server_type else ""
    return f"'{one.variant}' of '{one.task}' cannot be loaded{where}: {one.reason}"


def sentence(drift: Drift) -> str:
    """What a variant does in service."""
    where = f" on '{drift.server_type}'" if drift.server_type else ""
    children = "".join(f", {mean:.3g} of '{child}' per item" for child, mean in drift.fanout.items())
    return f"measured: '{drift.variant}' of '{drift.task}'{where} takes {drift.slowdown:.2f} x its profiled time{children}"
