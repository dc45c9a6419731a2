"""The event twin: the core's own actors on a heap of virtual time. Carries out their effects as the serving plane does;
contains no scheduling decision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from math import ceil, inf
from typing import NamedTuple

from loki_rl.core.actor import Actor
from loki_rl.core.cluster import addresses, begin_run, build
from loki_rl.core.controller import Controller
from loki_rl.core.draws import batch_seconds, fanouts
from loki_rl.core.effects import Drop, Effect, Kill, Load, Reply, Run, Send, Solve, Unload
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import CONTROLLER, GATEWAY, Arrived, BatchDone, Event, Loaded, Planned, Tick
from loki_rl.core.options import ClusterOptions
from loki_rl.core.plan import Plan, Snapshot
from loki_rl.core.requests.items import Family, members, size
from loki_rl.core.servers.rollout import HOLD_S
from loki_rl.core.servers.servers import Servers
from loki_rl.core.worker import Worker
from loki_rl.env.calibrated import Host
from loki_rl.env.clients import Clients
from loki_rl.env.kernel import Kernel
from loki_rl.files.calibration_file import Calibration
from loki_rl.progress import Progress, unseen

Decide = Callable[[Snapshot], Plan]
Recorder = Callable[[str, float, Event, list[Effect]], None]
# Who sends what when -> when it arrives [s].
Post = Callable[[str, Send, float], float]
TICK = Tick()
SHARED = "shared"  # on the stage, but no actor of the cluster


class Habits(NamedTuple):
    """How a plane was seen to take its time, and the policy that thinks here, since each takes its own."""

    calibration: Calibration
    policy: str = ""


class ActorSlot:
    """An actor on the stage, with the time of the Tick it waits for. handle, wake_at: the actor's own, looked up once. late:
    how much later than that a Tick comes [s], if not in time."""

    __slots__ = ("actor", "address", "due", "handle", "late", "wake_at")

    def __init__(self, address: str, actor: Actor, late: Callable[[], float] | None = None) -> None:
        self.address = address
        self.due = inf
        self.late = late
        self.play(actor)

    def play(self, actor: Actor) -> None:
        """Let another actor take the place."""
        self.actor = actor
        self.handle = actor.handle
        self.wake_at = actor.wake_at


class World:
    """A cluster in virtual time.

    Every message takes Pipeline.hop_s; a batch takes its keyed service time, a load its variant's load_s, both as on the
    server's type; a plan no time: all that only where no habits say otherwise.
    record is called after each event (journal); check makes every actor validate itself after each event. post: where
    messages take another time. clients: where requests ask for more than to be served.
    """

    def __init__(
        self,
        options: ClusterOptions,
        decide: Decide,
        start: float = 0.0,
        record: Recorder | None = None,
        check: bool = False,
        habits: Habits | None = None,
    ) -> None:
        self.options = options
        self.pipeline = options.pipeline
        self.hop_s = self.pipeline.hop_s
        self.decide = decide
        self.kernel: Kernel[ActorSlot, Event] = Kernel(start)
        self.record = record
        self.check = check
        self.post: Post | None = None
        self.clients: Clients | None = None
        self.events = 0
        self.habits = habits
        self.host: Host[ActorSlot] | None = None
        self.shared: ActorSlot | None = None
        if habits is not None:
            self._settle_in(habits, start)
        self.slots = {address: self._slot(address, build(address, options)) for address in addresses(options)}
        for slot in self.slots.values():
            self._enter(slot)

    def _settle_in(self, habits: Habits, start: float) -> None:
        host = self.host = Host(habits.calibration, habits.policy, self.options, start, self.kernel.push)
        self.post = host.arrival
        if host.sharing is not None:
            self.shared = ActorSlot(SHARED, host.sharing)
            self.record = None if self.record is None else without(self.record, (SHARED,))

    def _slot(self, address: str, actor: Actor) -> ActorSlot:
        return ActorSlot(address, actor, None if self.host is None else self.host.delays.timer.next)

    @property
    def slowest_load_s(self) -> float:
        """Longest time to load a model, beside all others [s]."""
        return slowest_load_s(self.options, self.habits)

    @property
    def farthest_s(self) -> float:
        """Longest way of a message, its timer's delay included [s]."""
        return self.hop_s if self.host is None else 2 * self.host.delays.longest_s

    @property
    def gateway(self) -> Gateway:
        actor = self.slots[GATEWAY].actor
        assert isinstance(actor, Gateway)
        return actor

    @property
    def controller(self) -> Controller:
        actor = self.slots[CONTROLLER].actor
        assert isinstance(actor, Controller)
        return actor

    def tell(self, address: str, event: Event, time: float) -> None:
        """Let an actor know something at a given time [s]."""
        self.kernel.push(time, self.slots[address], event)

    def begin(self, origin: float) -> None:
        """Trace time starts at `origin` [s] for everybody who counts."""
        for told in begin_run(self.options, origin):
            self.kernel.push(origin, self.slots[told.to], told.message)

    def step(self) -> None:
        """One event: hand it over, carry out what follows."""
        self._play(islice(self.kernel.until(inf), 1))

    def run_until(self, time: float) -> None:
        """Every event up to and including this time [s]."""
        self._play(self.kernel.until(time))

    def _play(self, events: Iterable[tuple[float, int, ActorSlot, Event]]) -> None:
        """The twin spends its own time here, so the commonest effects are spelled out."""
        slots, hop_s, post, record = self.slots, self.hop_s, self.post, self.record
        push, follow = self.kernel.push, self.kernel.follow
        for now, _, slot, event in events:
            if event is TICK:
                if slot.due > now:
                    continue  # a later Tick replaced this one
                slot.due = inf
            effects = slot.handle(event, now)
            self.events += 1
            if record is not None:
                record(slot.address, now, event, effects)
            for effect in effects:
                if type(effect) is Send:
                    if post is None:
                        follow(now + hop_s, slots[effect.to], effect.message)
                    else:
                        push(post(slot.address, effect, now), slots[effect.to], effect.message)
                elif type(effect) is Run:
                    self._run(slot, effect, now)
                elif type(effect) is Reply:
                    if self.clients is not None:
                        self._answer(self.clients, slot, effect, now)
                elif type(effect) is not Drop:  # the twin keeps no payload
                    self._carry_out(slot, effect, now)
            if self.check:
                slot.actor.validate()
            wake = slot.wake_at()
            if wake is not None and wake < slot.due:
                slot.due = wake if wake > now else now
                push(slot.due if slot.late is None else slot.due + slot.late(), slot, TICK)

    def _enter(self, slot: ActorSlot) -> None:
        """A player begins, or wants to wake earlier: with the first Tick it wants."""
        wake = slot.wake_at()
        if wake is not None and wake < slot.due:
            slot.due = max(wake, self.kernel.now)
            self.kernel.push(slot.due, slot, TICK)

    def _answer(self, clients: Clients, gateway: ActorSlot, reply: Reply, now: float) -> None:
        again = clients.come_again(reply, now)
        if again is not None:
            self.kernel.push(now + reply.retry_s, gateway, again)

    def _carry_out(self, slot: ActorSlot, effect: Effect, now: float) -> None:
        """The rare effects."""
        match effect:
            case Load():
                done = self._load(slot, effect, now)
                if self.host is None:
                    self.kernel.push(now + done.seconds, slot, done)
                else:
                    self._begin_on(self.host, slot, done, now)
            case Solve(snapshot):
                self.kernel.push(now + self.thought_s(), slot, Planned(self.decide(snapshot)))
            case Kill():
                self._restart(effect, now)
            case Unload():
                pass  # no model is in memory
            case _:
                raise TypeError(f"the twin cannot carry out {type(effect).__name__}")

    def thought_s(self) -> float:
        """How long the next plan takes [s]."""
        return 0.0 if self.host is None else self.host.delays.plan.next()

    def _load(self, slot: ActorSlot, load: Load, now: float) -> Loaded:  # noqa: ARG002  (for worlds where it matters when)
        """How a load that begins now will end."""
        worker = _server(slot)
        if self.host is not None:
            return Loaded(load.task, load.variant, self.host.times.load_s(worker.server_type, load))
        return Loaded(load.task, load.variant, worker.pipeline.tasks[load.task].variants[load.variant].load_s)

    def _restart(self, kill: Kill, now: float) -> None:
        """End a worker's process and start it again; in an undisturbed cluster none hangs."""

    def _run(self, slot: ActorSlot, run: Run, now: float) -> None:
        seconds = self._seconds(slot, run, now)
        counts = self._counts(run.families, run.task, run.variant) if self.pipeline.children[run.task] else []
        done = BatchDone(run.batch, counts, seconds)
        if self.host is None:
            self.kernel.push(now + seconds, slot, done)
        else:
            self._begin_on(self.host, slot, done, now)

    def _begin_on(self, host: Host[ActorSlot], slot: ActorSlot, job: BatchDone | Loaded, now: float) -> None:
        """An engine begins; job.seconds: how long it takes if nothing is in its way [s]."""
        host.begin(slot, job, job.seconds, now)
        if self.shared is not None:
            self._enter(self.shared)

    def _seconds(self, slot: ActorSlot, run: Run, now: float) -> float:
        """Service time of a batch [s], if nothing is in its way."""
        if self.host is not None:
            return self.host.times.service_s(_server(slot).server_type, run, now)
        return batch_seconds(self.options.seed, _server(slot).pipeline, run.batch, run.task, run.variant, size(run.families))

    def _counts(self, families: list[Family], task: int, variant: int) -> list[tuple[int, ...]]:
        """Children of each item, per child task."""
        seed, pipeline = self.options.seed, self.pipeline
        return [fanouts(seed, pipeline, item, task, variant) for item in members(pipeline, task, families)]


def without(record: Recorder, hands: Collection[str]) -> Recorder:
    """The same for actors alone: what others on the stage do is of no journal."""

    def record_actors(address: str, now: float, event: Event, effects: list[Effect]) -> None:
        if address not in hands:
            record(address, now, event, effects)

    return record_actors


def _server(slot: ActorSlot) -> Worker:
    """Who runs batches and loads models: it knows the pipeline as its own server runs it."""
    assert isinstance(slot.actor, Worker)
    return slot.actor


def slowest_load_s(options: ClusterOptions, habits: Habits | None) -> float:
    """Longest time to load a model [s], on a calibrated host beside as many others as there are servers."""
    slowest_s = Servers(options).slowest_load_s
    if habits is None:
        return slowest_s
    calibration = habits.calibration
    seen_s = [row.quantiles[-1] * (1.0 if row.variant else slowest_s) for row in calibration.loads]
    return max([slowest_s, *seen_s]) / calibration.contention.speed(options.servers)


def run(
    world: World,
    arrivals: Sequence[float],
    duration_s: float,
    settle_s: float,
    clients: Clients | None = None,
    progress: Progress = unseen,
) -> None:
    """Play a whole trace. progress: is told once a second of it.

    arrivals: times [s] in [0, duration_s), sorted. The cluster gets its first plan and settle_s to load it before time 0.
    Ends when every request that arrived has ended, down to its last part unless nothing can serve that any more, and nobody
    comes again.
    """
    assert world.kernel.now <= -settle_s
    world.clients = clients
    world.begin(0.0)
    gateway = world.slots[GATEWAY]
    world.run_until(0.0)
    told = 0.0
    for key, time in enumerate(arrivals):
        if time >= told:
            progress(time / duration_s)
            told = time + 1.0
        world.run_until(time)
        world.kernel.push(time, gateway, Arrived([key], [0.0]) if clients is None else clients.request(key))
    end = duration_s
    _finish(world, end)
    while clients is not None and clients.back_at > end:
        end = clients.back_at
        _finish(world, end)


def _finish(world: World, end: float) -> None:
    """Until the second at `end` [s] is over, its sample of servers has come, and all have ended. Without drops a task that
    has no server keeps its items for ever: stop when all are answered and a model could have been loaded and have run
    since the last part ended."""
    world.run_until(ceil(end) + 2 * world.farthest_s)
    options = world.options
    patience_s = 2 * options.interval_s + HOLD_S + world.slowest_load_s + options.pipeline.slo_s
    gateway, left, since = world.gateway, len(world.gateway.roots), world.kernel.now
    while gateway.roots and (gateway.by_key or world.kernel.now - since <= patience_s):
        world.step()
        if len(gateway.roots) != left:
            left, since = len(gateway.roots), world.kernel.now
