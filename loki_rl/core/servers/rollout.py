"""Which servers go over to a plan next, so that what stays ready can serve the demand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
# What came to a task in each of so many latest seconds [s] is what may come to it now. One second of it may be a spike that
# nobody could serve, and must not pass for what comes.
RECENT_S = 3


class Rollout:
    """parallel: servers that may leave their variant at once, 0 for all that can be spared. interval_s: between plans.

    A server that would stop serving stays until plans have wanted that for a while, whatever they want it to serve instead;
    one that serves nothing loads at once (see HOLD_S).

    A server also stays while its task serves what came to it of late, or would but for those that have just left it, and
    could not without this one. A task of which nobody may leave gives one up at a time: a plan must not wait for ever.

    With a limit, a server also stays while its task could not serve its share of the plan's demand without it. Those that
    serve nothing go at once. Where every step would take too much, the task that is left with most gives one up. Who may not
    load its model now stays as it is: see Exclusions.
    """

    def __init__(self, servers: Servers, parallel: int, exclusions: Exclusions, interval_s: float) -> None:
        hold_s = min(HOLD_S, servers.slowest_load_s)
        self.hold_s = hold_s if interval_s < hold_s else 0.0
        self._servers = servers
        self._exclusions = exclusions
        self._pipeline = servers.pipelines[0]
        self._parallel = parallel
        self._needed: dict[str, float] = {}
        self._left_by: dict[int, tuple[str, float]] = {}  # server that serves nothing yet -> what it has left

    def adopt(self, plan: Plan) -> None:
        """Items per second that each task has to serve from now on."""
        share = plan.demand_rps * plan.served_fraction / plan.capacity_rps if plan.capacity_rps else 0.0
        self._needed = {
            task.name: share * mix_of(self._pipeline, place, plan).rate for place, task in enumerate(self._pipeline.tasks)
        }

    def next(self, machines: Mapping[int, ServerRecord], items: Mapping[str, Sequence[int]], now: float) -> list[int]:
        """Servers to tell their targets now. items: task -> items that came to it in each of the latest seconds."""
        if self.hold_s:
            self._settle(machines, now)
        self._forget_away(machines)
        untold = [number for number, machine in machines.items() if not machine.ordered and now >= self.due_at(machine)]
        waiting = self._exclusions.admitted(untold, machines)
        going = [number for number in waiting if not self._leaves(machines[number])]
        leaving = [number for number in waiting if self._leaves(machines[number])]
        if not leaving:
            return sorted(going)
        ready = self._ready(machines)
        leaving = self._spared(leaving, machines, dict(ready), items)
        if not self._parallel:
            return self._told(going + leaving, machines)
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
        return self._told(going, machines)

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

    def _spared(
        self,
        leaving: list[int],
        machines: Mapping[int, ServerRecord],
        ready: dict[str, float],
        items: Mapping[str, Sequence[int]],
    ) -> list[int]:
        """Those of who would leave that are not missed, and of a task where all are one; the slowest first, so that as many
        go as can."""
        away: dict[str, float] = defaultdict(float)
        for task, rate in self._left_by.values():
            away[task] += rate
        floors = {task: self._floor(rate + away[task], items.get(task, ())) for task, rate in ready.items()}
        spared: list[int] = []
        for number in sorted(leaving, key=lambda number: (self._rate(machines[number]), number)):
            task, rate = self._gives(machines[number])
            if ready[task] - rate >= floors[task] or not away[task]:
                spared.append(number)
                ready[task] -= rate
                away[task] += rate
        return spared

    def _floor(self, rate: float, counts: Sequence[int]) -> float:
        """The most that came in one of the latest seconds and that so many items per second can serve."""
        return max((count for count in counts[-RECENT_S:] if count <= rate), default=0.0)

    def _told(self, numbers: list[int], machines: Mapping[int, ServerRecord]) -> list[int]:
        """In order, with a note of what those leave that stop serving."""
        for number in numbers:
            if self._leaves(machines[number]):
                self._left_by[number] = self._gives(machines[number])
        return sorted(numbers)

    def _forget_away(self, machines: Mapping[int, ServerRecord]) -> None:
        """Who serves something else now, has been parked or is gone is not on its way any more."""
        for number in list(self._left_by):
            machine = machines.get(number)
            if machine is None or machine.converged or not machine.ordered:
                del self._left_by[number]

    def _gives(self, machine: ServerRecord) -> tuple[str, float]:
        return (machine.serving[0] if machine.serving else ""), self._rate(machine)

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
