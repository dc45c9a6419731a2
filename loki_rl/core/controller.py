"""The controller: counts demand, asks the policy, and moves servers to the plan. Owns the transition between plans; knows
nothing of how a plan is found."""

from __future__ import annotations

from math import ceil, inf

from msgspec.structs import replace

from loki_rl.core.messages import (
    GATEWAY,
    Assign,
    Backlog,
    Begin,
    Counted,
    Effect,
    Event,
    PlanChanged,
    Planned,
    Report,
    Sample,
    Send,
    Solve,
    Tick,
    WorkerGone,
    router,
    worker,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Placement, Plan, Server, Snapshot
from loki_rl.core.transition import Model, Seat, Target, assign

HISTORY_S = 300
RETRY_S = 1.0


class Machine:
    """What is known of one server. target: what it should serve; ordered: whether it was told; loads: seen so far."""

    __slots__ = ("batch", "incarnation", "loading", "loads", "ordered", "resident", "serving", "started", "target")

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.serving: Model | None = None
        self.batch = 0
        self.loading: Model | None = None
        self.started = 0.0
        self.resident: Model | None = None
        self.loads = 0
        self.target: Target | None = None
        self.ordered = True

    @property
    def busy(self) -> bool:
        return self.serving is not None or self.loading is not None

    @property
    def settled(self) -> bool:
        wanted = None if self.target is None else self.target[:2]
        return self.ordered and self.loading is None and self.serving == wanted


class Controller:
    """Actor at address `controller`.

    Every interval_s after the origin it emits Solve(snapshot); Planned answers. Loads in flight are in the snapshot. At most
    parallel_loads servers leave their variant at once (0: all); parked servers load at any time, since that costs nothing.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self.options = options
        self.pipeline = options.pipeline
        self.machines: dict[int, Machine] = {}
        self.arrivals: list[int] = []
        self.origin: float | None = None
        self.plan: Plan | None = None
        self.epoch = 0
        self.solving = False
        self.next_solve: float | None = None
        self.next_second: float | None = None
        self.retry_at = inf
        self.backlog_s: dict[str, float] = {}
        self.loads_reported = 0
        self.failures: list[str] = []

    @property
    def settled(self) -> bool:
        """A plan is in force and every server does what it says."""
        return self.plan is not None and all(machine.settled for machine in self.machines.values())

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = []
        match event:
            case Counted(_, arrivals):
                self.arrivals.append(arrivals)
                del self.arrivals[:-HISTORY_S]
            case Report():
                self._report(event, now, effects)
            case Backlog(task, _, drain_s):
                self.backlog_s[self.pipeline.tasks[task].name] = drain_s
            case Planned(plan, error):
                self._planned(plan, error, effects)
            case Tick():
                self._tick(now, effects)
            case WorkerGone(number):
                self._gone(number, now)
            case Begin(origin):
                self._begin(origin)
            case _:
                raise TypeError(f"the controller cannot handle {type(event).__name__}")
        return effects

    def wake_at(self) -> float | None:
        times = [time for time in (self.next_solve, self.next_second, self.retry_at) if time is not None and time < inf]
        return min(times) if times else None

    def validate(self) -> None:
        targets = [machine.target for machine in self.machines.values() if machine.target is not None]
        wanted = 0 if self.plan is None else sum(place.replicas for place in self.plan.placements)
        assert len(targets) <= max(wanted, 0), "more servers have a target than the plan wants"
        assert len(self.machines) <= self.options.servers, "an unknown server"

    # -- time ---------------------------------------------------------------------------------------------------------

    def _begin(self, origin: float) -> None:
        """Trace time starts: second and interval boundaries are counted from here."""
        self.origin = origin
        self.arrivals = []
        self.next_second = origin + 1.0
        self.next_solve = origin + self.options.interval_s
        self.loads_reported = sum(machine.loads for machine in self.machines.values())

    def _tick(self, now: float, effects: list[Effect]) -> None:
        while self.next_second is not None and now >= self.next_second:
            self._sample(effects)
            self.next_second += 1.0
        if now >= self.retry_at:
            self.retry_at = inf
            self._order(effects)
        if self.next_solve is not None and now >= self.next_solve:
            self.next_solve += self.options.interval_s * ceil((now - self.next_solve + 1e-9) / self.options.interval_s)
            if not self.solving:
                self.solving = True
                effects.append(Solve(self._snapshot(now)))

    def _sample(self, effects: list[Effect]) -> None:
        assert self.next_second is not None
        second = round(self.next_second - (self.origin or 0.0)) - 1
        used = sum(machine.busy for machine in self.machines.values())
        loads = sum(machine.loads for machine in self.machines.values())
        effects.append(Send(GATEWAY, Sample(second, used, loads - self.loads_reported)))
        self.loads_reported = loads

    def _snapshot(self, now: float) -> Snapshot:
        age = 0.0 if self.next_second is None else max(0.0, now - (self.next_second - 1.0))
        return Snapshot(
            now=now,
            interval_s=self.options.interval_s,
            arrivals=tuple(self.arrivals),
            partial=0,
            partial_s=age,
            servers=tuple(self._server(number, machine, now) for number, machine in sorted(self.machines.items())),
            backlog_s=dict(self.backlog_s),
            plan=self.plan,
        )

    def _server(self, number: int, machine: Machine, now: float) -> Server:
        loading, remaining = None, 0.0
        if machine.loading is not None:
            loading = (*machine.loading, machine.batch)
            total = self.pipeline.variant(*machine.loading).load_s
            remaining = max(0.0, machine.started + total - now)
        serving = None if machine.serving is None else (*machine.serving, machine.batch)
        resident = () if machine.resident is None else (machine.resident,)
        return Server(number, serving, resident, loading, remaining)

    # -- what the servers say -----------------------------------------------------------------------------------------

    def _report(self, event: Report, now: float, effects: list[Effect]) -> None:
        machine = self.machines.get(event.worker)
        if machine is None or event.incarnation > machine.incarnation:
            target = None if machine is None else machine.target
            machine = self.machines[event.worker] = Machine(event.incarnation)
            machine.target, machine.ordered = target, target is None
        if event.incarnation < machine.incarnation:
            return
        machine.serving, machine.batch = self._model(event.task, event.variant), event.batch
        machine.loading = self._model(event.loading_task, event.loading_variant)
        machine.started, machine.loads = event.started, event.loads
        machine.resident = machine.serving or machine.resident
        if machine.loading is not None and self.pipeline.swap == "break":
            machine.resident = None
        if event.error:
            self.failures.append(f"worker {event.worker}: {event.error}")
            machine.ordered = False
            self.retry_at = now + RETRY_S
        else:
            self._order(effects)
        if self.plan is None and not self.solving and len(self.machines) == self.options.servers:
            self.solving = True
            effects.append(Solve(self._snapshot(now)))

    def _model(self, task: int, variant: int) -> Model | None:
        if task < 0:
            return None
        found = self.pipeline.tasks[task]
        return found.name, found.variants[variant].name

    def _gone(self, number: int, now: float) -> None:
        """Its share is missing until it comes back: plan again at once with the servers that are left."""
        if self.machines.pop(number, None) is not None and self.next_solve is not None:
            self.next_solve = min(self.next_solve, now)

    # -- the transition -----------------------------------------------------------------------------------------------

    def _planned(self, plan: Plan | None, error: str, effects: list[Effect]) -> None:
        self.solving = False
        if plan is None:
            self.failures.append(error)
            return
        self.epoch += 1
        self.plan = replace(plan, epoch=self.epoch)
        seats = [
            Seat(number, machine.serving, machine.loading, machine.resident) for number, machine in self.machines.items()
        ]
        for number, target in assign(self._within(plan), seats).items():
            machine = self.machines[number]
            if target != machine.target:
                machine.target, machine.ordered = target, False
        told = [GATEWAY, *(router(task) for task in range(len(self.pipeline.tasks)))]
        effects += [Send(address, PlanChanged(self.plan)) for address in told]
        self._order(effects)

    def _within(self, plan: Plan) -> list[Placement]:
        """The plan's placements, cut to the servers there are (one may have died while the policy was thinking)."""
        left, kept = len(self.machines), []
        for place in plan.placements:
            replicas = min(place.replicas, left)
            left -= replicas
            if replicas:
                kept.append(replace(place, replicas=replicas))
        return kept

    def _order(self, effects: list[Effect]) -> None:
        """Tell servers their targets, as many as may swap at once."""
        limit = self.options.parallel_loads or len(self.machines)
        swapping = sum(machine.loading is not None for machine in self.machines.values())
        for number, machine in sorted(self.machines.items()):
            if machine.ordered:
                continue
            costs = machine.target is not None and machine.serving is not None and machine.serving != machine.target[:2]
            if costs and swapping >= limit:
                continue
            swapping += costs
            machine.ordered = True
            effects.append(Send(worker(number), self._assignment(machine.target)))

    def _assignment(self, target: Target | None) -> Assign:
        if target is None:
            return Assign(self.epoch, -1, -1, 1)
        task = self.pipeline.index[target[0]]
        return Assign(self.epoch, task, self.pipeline.variant_index[task][target[1]], target[2])
