"""The controller: counts demand, asks the policy, and moves servers to the plan."""

from __future__ import annotations

from math import ceil, inf

from msgspec.structs import replace

from loki_rl.core.effects import Effect, Send, Solve
from loki_rl.core.messages import (
    CONTROLLER,
    GATEWAY,
    Assign,
    Backlog,
    Begin,
    Counted,
    Drifted,
    Event,
    PlanChanged,
    Planned,
    Report,
    Restarted,
    Resume,
    Sample,
    Tick,
    WorkerGone,
    number_of,
    routers,
    worker,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan, Snapshot
from loki_rl.core.requests.seconds import Seconds
from loki_rl.core.servers.exclusions import Exclusions
from loki_rl.core.servers.history import History
from loki_rl.core.servers.rollout import Rollout
from loki_rl.core.servers.server_record import ServerRecord
from loki_rl.core.servers.servers import Servers
from loki_rl.core.servers.transition import Model, Seat, Target, assign, within

RETRY_S = 1.0
FAILURES = 100
# The count of a second is sent when it ends: a plan made on the stroke would never know the second just past.
COUNTED_S = 0.02
# A restarted controller takes over the servers once all have told what they do, or this long after it knows where to go on,
ADOPT_S = 1.0
# or this long after its start where no gateway tells.
ALONE_S = 3.0


class Controller:
    """Actor at address `controller`.

    Every interval_s after the origin, and when a server is lost or found or a model cannot be loaded, it emits
    Solve(snapshot); Planned answers, and what fell due meanwhile is asked right after. Loads in flight are in the snapshot.
    Who goes over to a new plan when: see Rollout; what is not loaded for a while: see Exclusions.

    A restarted one asks what is there: servers tell what they do, the gateway where time and demand stand and which plan is
    in force. Until then it decides nothing, and the cluster goes on as it is.
    """

    def __init__(self, options: ClusterOptions, incarnation: int = 0) -> None:
        self.options = options
        self.pipeline = options.pipeline
        self.servers = Servers(options)
        self.machines: dict[int, ServerRecord] = {}
        self.absent: set[int] = set()
        self.history = History(self.pipeline)
        self.seconds = Seconds()
        self.plan: Plan | None = None
        self.epoch = 0
        self.solving = False
        self.next_solve = inf
        self.replan_at = inf
        self.retry_at = inf
        self.loads = 0
        self.failures: list[str] = []
        self.adopting = bool(incarnation)
        self.adopt_at = -inf
        self.exclusions = Exclusions(self.servers)
        self.rollout = Rollout(self.servers, options.parallel_loads, self.exclusions, options.interval_s)

    @property
    def converged(self) -> bool:
        """A plan is in force and every server does what it says."""
        return self.plan is not None and all(machine.converged for machine in self.machines.values())

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = []
        match event:
            case Counted(second, arrivals):
                self._count(second, arrivals, now)
            case Report():
                self._report(event, now, effects)
            case Backlog():
                if self.history.record(event):
                    self._replan(now)
            case Planned(plan, error):
                self._planned(plan, error, now, effects)
            case Tick():
                self._tick(now, effects)
            case WorkerGone(number):
                self.absent.add(number)
                if self.machines.pop(number, None) is not None:
                    self._replan(now)  # its share is missing until it comes back
                self._begin_planning(now, effects)
            case Begin(origin):
                self._begin(origin)
            case Resume():
                self._resume(event, now)
            case Restarted(address):
                self._peer_restarted(address, effects)
            case _:
                raise TypeError(f"the controller cannot handle {type(event).__name__}")
        return effects

    def wake_at(self) -> float | None:
        if self.adopting:
            return self.adopt_at
        wake = min(self.next_solve, self.seconds.next, self.retry_at, inf if self.solving else self.replan_at)
        return wake if wake < inf else None

    def validate(self) -> None:
        targets = [machine.target for machine in self.machines.values() if machine.target is not None]
        for machine in self.machines.values():
            here = self.servers.pipelines[machine.server_type]
            assert machine.target is None or here.variant(*machine.target[:2]).runnable, "a target that does not run there"
        wanted = 0 if self.plan is None else sum(place.replicas for place in self.plan.placements)
        assert len(targets) <= max(wanted, 0), "more servers have a target than the plan wants"
        for machine in self.machines.values():
            held = machine.leaving_since < inf
            assert not (held and machine.ordered), "a server is held that was told to go"
            assert not held or machine.serving is not None, "a server is held that serves nothing"

    # -- time ---------------------------------------------------------------------------------------------------------

    def _begin(self, origin: float) -> None:
        """Trace time starts: second and interval boundaries are counted from here."""
        self.seconds.begin(origin)
        self.history.begin()
        self.next_solve = origin + self.options.interval_s + COUNTED_S
        self.loads = 0

    def _count(self, second: int, arrivals: int, now: float) -> None:
        """Counts of before the origin may still be on their way when it is set; they are not of this run."""
        if self.seconds.next == inf or self.history.counted <= second <= now - self.seconds.origin:
            self.history.count(second, arrivals)

    def _tick(self, now: float, effects: list[Effect]) -> None:
        if self.adopting:
            self._adopt(now, effects)
            return
        for second in self.seconds.ended(now):
            used = sum(machine.busy for machine in self.machines.values())
            effects.append(Send(GATEWAY, Sample(second, used, self.loads)))
            self.loads = 0
        if now >= self.retry_at:
            self.exclusions.review(now)
            self.retry_at = min(self.exclusions.ends(now), default=inf)
            self._order(now, effects)
        if now >= self.next_solve:
            self.next_solve += self.options.interval_s * ceil((now - self.next_solve + 1e-9) / self.options.interval_s)
            self.replan_at = now  # after the plan that is being made, if there is one
        if now >= self.replan_at and not self.solving:
            self._solve(now, effects)

    def _solve(self, now: float, effects: list[Effect]) -> None:
        self.solving = True
        self.replan_at = inf
        effects.append(Solve(self._snapshot(now)))

    def _snapshot(self, now: float) -> Snapshot:
        history = self.history
        return Snapshot(
            now=now,
            interval_s=self.options.interval_s,
            arrivals=tuple(history.arrivals),
            age_s=0.0 if self.seconds.next == inf else max(0.0, now - self.seconds.origin - history.counted),
            servers=tuple(self.machines[number].seen(number, self.servers, now) for number in sorted(self.machines)),
            backlog_s=dict(history.backlog_s),
            items={task: tuple(counts) for task, counts in history.items.items()},
            plan=self.plan,
            drift=tuple(history.all_drift()),
            exclusions=self.exclusions.current,
        )

    # -- another life -------------------------------------------------------------------------------------------------

    def _introduce(self, now: float, effects: list[Effect]) -> None:
        self.adopt_at = now + ALONE_S
        told = (GATEWAY, *map(worker, range(self.options.servers)))
        effects += [Send(address, Restarted(CONTROLLER)) for address in told]

    def _resume(self, event: Resume, now: float) -> None:
        """Time, demand and plan are as the gateway tells."""
        if not self.adopting:
            return
        self._begin(event.origin)
        self.history.begin(event.counted, event.arrivals)
        self.seconds.begin(event.origin, max(now, event.origin))
        interval_s, first = self.options.interval_s, event.origin + self.options.interval_s + COUNTED_S
        self.next_solve = first + interval_s * max(0, ceil((now - first) / interval_s))
        self.plan, self.epoch = event.plan, 0 if event.plan is None else event.plan.epoch
        self.adopt_at = now if len(self.machines) == self.options.servers else min(self.adopt_at, now + ADOPT_S)

    def _adopt(self, now: float, effects: list[Effect]) -> None:
        """Take over: servers whose task is another by the plan are told, and those that are missing are planned without."""
        if self.adopt_at == -inf:
            self._introduce(now, effects)
            return
        self.adopting = False
        if self.plan is None or len(self.machines) < self.options.servers:
            self.replan_at = now
        if self.plan is not None:
            self._aim(self.plan)
            for machine in self.machines.values():
                machine.ordered = machine.on_target
            self._order(now, effects)

    def _peer_restarted(self, address: str, effects: list[Effect]) -> None:
        """A new router measures anew. A new gateway knows what was last written down; where this is newer, it is told."""
        if address != GATEWAY:
            found = self.history.drift.get(self.pipeline.tasks[number_of(address)].name, [])
            effects += [Send(address, Drifted(found))] if found else []
        elif self.adopting:
            effects.append(Send(GATEWAY, Restarted(CONTROLLER)))
        elif self.seconds.next < inf and self.plan is not None:
            effects += [Send(GATEWAY, Begin(self.seconds.origin)), Send(GATEWAY, PlanChanged(self.plan))]

    # -- what the servers say -----------------------------------------------------------------------------------------

    def _report(self, event: Report, now: float, effects: list[Effect]) -> None:
        machine = self._machine(event, now)
        if event.incarnation < machine.incarnation:
            return
        named = self.pipeline.names
        serving, loading = named(event.task, event.variant), named(event.loading_task, event.loading_variant)
        self.loads += machine.update(event, serving, loading)
        ended = named(event.ended_task, event.ended_variant)
        if ended is not None:
            self._load_ended(event, machine, ended, now)
        if self.adopting:
            if len(self.machines) == self.options.servers and self.plan is not None:
                self._adopt(now, effects)
            return
        self._order(now, effects)
        self._begin_planning(now, effects)

    def _begin_planning(self, now: float, effects: list[Effect]) -> None:
        """The first plan is for all servers that are there, once it is known of each whether it is."""
        known = len(self.machines) + len(self.absent)
        if self.plan is None and not self.solving and not self.adopting and self.machines and known == self.options.servers:
            self._solve(now, effects)

    def _load_ended(self, event: Report, machine: ServerRecord, model: Model, now: float) -> None:
        """One that failed is tried again after a while, by then with another plan if there is one without it."""
        if not event.error:
            self.exclusions.loaded(model, machine.server_type, now)
            return
        self._failed(f"worker {event.worker}: {event.error}")
        machine.ordered = False
        machine.failed_at, machine.held_until = now, now + RETRY_S
        self.exclusions.failed(model, machine.server_type, event.error, now)
        self.retry_at = min([self.retry_at, *self.exclusions.ends(now)])
        if self.exclusions.has(model, machine.server_type):
            self._replan(now)

    def _machine(self, event: Report, now: float) -> ServerRecord:
        """The server's record, a fresh one for a new life of its process. A server that was lost gets work with the next
        plan, so that is made at once."""
        known = self.machines.get(event.worker)
        if known is not None and event.incarnation <= known.incarnation:
            return known
        self.absent.discard(event.worker)
        fresh = self.machines[event.worker] = ServerRecord(event.incarnation, self.servers.type_of(event.worker))
        if self.adopting:
            fresh.loads = event.loads  # those of before are counted
        elif known is not None:
            fresh.target, fresh.ordered = known.target, known.target is None
        else:
            self._replan(now)
        return fresh

    def _replan(self, now: float) -> None:
        """The plan in force, if there is one, was made for other servers or figures."""
        if self.plan is not None:
            self.replan_at = min(self.replan_at, now)

    def _failed(self, error: str) -> None:
        self.failures.append(error)
        del self.failures[:-FAILURES]

    # -- the transition -----------------------------------------------------------------------------------------------

    def _planned(self, plan: Plan | None, error: str, now: float, effects: list[Effect]) -> None:
        self.solving = False
        if plan is None:
            self._failed(error)
            return
        self.epoch += 1
        self.plan = replace(plan, epoch=self.epoch)
        self._aim(plan)
        effects += [Send(address, PlanChanged(self.plan)) for address in (GATEWAY, *routers(self.pipeline))]
        self._order(now, effects)

    def _aim(self, plan: Plan) -> None:
        """Give every server its target."""
        self.rollout.adopt(plan)
        seats = [
            Seat(number, machine.serving, machine.loading, machine.resident, self.servers.types[machine.server_type].name)
            for number, machine in self.machines.items()
        ]
        for number, target in assign(within(plan.placements, seats), seats).items():
            machine = self.machines[number]
            if target != machine.target:
                machine.target, machine.ordered, machine.held_until = target, False, -inf

    def _order(self, now: float, effects: list[Effect]) -> None:
        """Tell servers their targets, as many as may leave what they serve, and look again when one more may."""
        for number in self.rollout.next(self.machines, self.history.items, now):
            machine = self.machines[number]
            machine.ordered, machine.leaving_since = True, inf
            effects.append(Send(worker(number), self._assignment(machine.target)))
        self.retry_at = min([self.retry_at, *self.rollout.held(self.machines, now)])

    def _assignment(self, target: Target | None) -> Assign:
        if target is None:
            return Assign(self.epoch, -1, -1, 1)
        return Assign(self.epoch, *self.pipeline.positions(*target[:2]), target[2])
