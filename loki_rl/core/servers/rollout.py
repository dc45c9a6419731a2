"""Which servers go over to a plan next, so that what stays ready can serve the demand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import inf

from loki_rl.core.mix import mix_of
from loki_rl.core.plan import Plan
from loki_rl.core.servers.exclusions import Exclusions
from loki_rl.core.servers.server_record import ServerRecord
from loki_rl.core.servers.servers import Servers

# Where plans are made more often than this, a server leaves what it serves only once they have wanted that for so long: what
# a second of strange demand asks for, the next one takes back, and both loads would be for nothing. Taking back a load that
# takes less time than this costs less, so that no wish waits for longer than loads take. With a plan each second it goes
# half a second after the second plan in a row that wants it.
HOLD_S = 1.5


class Rollout:
    """parallel: servers that may leave their variant at once, 0 for all. interval_s: between plans.

    A server that would stop serving stays until plans have wanted that for a while, whatever they want it to serve instead;
    one that serves nothing loads at once (see HOLD_S).

    With a limit, a server also stays while its task could not serve its share of the plan's demand without it. Those that
    serve nothing go at once. Where every step would take too much, the task that is left with most gives one up: a plan must
    not wait for ever. Who may not load its model now stays as it is: see Exclusions.
    """

    def __init__(self, servers: Servers, parallel: int, exclusions: Exclusions, interval_s: float) -> None:
        hold_s = min(HOLD_S, servers.slowest_load_s)
        self.hold_s = hold_s if interval_s < hold_s else 0.0
        self._servers = servers
        self._exclusions = exclusions
        self._pipeline = servers.pipelines[0]
        self._parallel = parallel
        self._needed: dict[str, float] = {}

    def adopt(self, plan: Plan) -> None:
        """Items per second that each task has to serve from now on."""
        share = plan.demand_rps * plan.served_fraction / plan.capacity_rps if plan.capacity_rps else 0.0
        self._needed = {
            task.name: share * mix_of(self._pipeline, place, plan).rate for place, task in enumerate(self._pipeline.tasks)
        }

    def next(self, machines: Mapping[int, ServerRecord], now: float) -> list[int]:
        """Servers to tell their targets now."""
        if self.hold_s:
            self._settle(machines, now)
        untold = [number for number, machine in machines.items() if not machine.ordered and now >= self.due_at(machine)]
        waiting = self._exclusions.admitted(untold, machines)
        going = [number for number in waiting if not self._leaves(machines[number])]
        leaving = [number for number in waiting if self._leaves(machines[number])]
        if not self._parallel:
            return sorted(waiting)
        ready = self._ready(machines)
        swapping = sum(machine.swapping for machine in machines.values())
        loading = swapping + len(going)
        while leaving:
            number = max(leaving, key=lambda n: self._left(machines[n], ready))
            leaving.remove(number)
            machine = machines[number]
            loads = machine.target is not None
            if (loads and swapping >= self._parallel) or (loading and self._left(machine, ready) < 1.0):
                continue
            going.append(number)
            swapping, loading = swapping + loads, loading + loads
            ready[machine.serving[0] if machine.serving else ""] -= self._rate(machine)
        return sorted(going)

    def held(self, machines: Mapping[int, ServerRecord], now: float) -> Iterator[float]:
        """When those that are held now may be told their targets [s]."""
        for machine in machines.values():
            if not machine.ordered and (due_at := self.due_at(machine)) > now:
                yield due_at

    def due_at(self, machine: ServerRecord) -> float:
        """When a server may be told its target [s]; infinite where it was told."""
        if machine.ordered:
            return inf
        since = machine.leaving_since
        return machine.held_until if since == inf else max(machine.held_until, since + self.hold_s)

    def _settle(self, machines: Mapping[int, ServerRecord], now: float) -> None:
        """Note who should stop serving from now on, and who should no more."""
        for machine in machines.values():
            if machine.ordered or not self._leaves(machine):
                machine.leaving_since = inf
            elif machine.leaving_since == inf:
                machine.leaving_since = now

    def _leaves(self, machine: ServerRecord) -> bool:
        """Whether it would stop serving what it serves."""
        if machine.serving is None or (machine.target is not None and machine.target[:2] == machine.serving):
            return False
        if machine.target is None:
            return True
        here = self._servers.pipelines[machine.server_type]
        return self._servers.breaks(machine.server_type, here.variant(*machine.serving), here.variant(*machine.target[:2]))

    def _ready(self, machines: Mapping[int, ServerRecord]) -> dict[str, float]:
        """Items per second that each task can serve now."""
        ready: dict[str, float] = defaultdict(float)
        for machine in machines.values():
            if machine.serving is not None and not (machine.ordered and self._leaves(machine)):
                ready[machine.serving[0]] += self._rate(machine)
        return ready

    def _left(self, machine: ServerRecord, ready: Mapping[str, float]) -> float:
        """What its task could serve without it, relative to what it has to."""
        task = machine.serving[0] if machine.serving else ""
        needed = self._needed.get(task, 0.0)
        return (ready[task] - self._rate(machine)) / needed if needed else float("inf")

    def _rate(self, machine: ServerRecord) -> float:
        if machine.serving is None:
            return 0.0
        task, variant = self._pipeline.positions(*machine.serving)
        times = self._servers.pipelines[machine.server_type].service_s[task][variant]
        cap = min(machine.batch, len(times) - 1)
        return cap / times[cap]
