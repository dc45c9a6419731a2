"""The twin with faults: crashes, slow servers, models that do not load, late metrics, noisy services. Carries out what is
described; contains no scheduling decision, and the actors are not told that anything is amiss."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf
from statistics import NormalDist

from loki_rl.core.actor import Actor
from loki_rl.core.cluster import build, lose_worker
from loki_rl.core.draws import NOISE, uniform
from loki_rl.core.effects import Effect, Kill, Load, Run, Send
from loki_rl.core.journal import address_of, life
from loki_rl.core.messages import Backlog, Counted, Event, Loaded, worker
from loki_rl.core.options import ClusterOptions
from loki_rl.env.faults import Crash, Faults, Slow
from loki_rl.env.world import ActorSlot, Decide, Habits, Post, Recorder, World, without

# From the end of a process to the word of it: a kernel handle wakes the launcher.
NOTICED_S = 0.001
# From the end of a process to the first word of the next one.
RESTARTED_S = 0.5
LAGGING: tuple[type[Event], ...] = (Counted, Backlog)
FATE, NOBODY = "fate", "nobody"  # what no journal can repeat


class DeadActor:
    """In the place of a dead process: hears nothing, says nothing."""

    def handle(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002
        return []

    def wake_at(self) -> float | None:
        return None

    def validate(self) -> None:
        pass


class CrashSchedule:
    """Kills and revives servers when their time has come, and gives word of it as a launcher does."""

    deeds: list[tuple[float, int, int]]  # when [s], what, which server

    def __init__(
        self,
        crashes: tuple[Crash, ...],
        options: ClusterOptions,
        kill: Callable[[int], None],
        revive: Callable[[int], None],
    ) -> None:
        self.options = options
        self.kill, self.revive = kill, revive
        deeds = [(crash.at_s, 0, crash.server) for crash in crashes]
        deeds += [(crash.at_s + NOTICED_S, 1, crash.server) for crash in crashes]
        deeds += [(crash.at_s + crash.down_s, 2, crash.server) for crash in crashes if crash.down_s is not None]
        self.deeds = sorted(deeds)

    def restart(self, server: int, now: float) -> None:
        """As a launcher does with one that hangs."""
        self.deeds = sorted([*self.deeds, (now, 0, server), (now + NOTICED_S, 1, server), (now + RESTARTED_S, 2, server)])

    def handle(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002
        effects: list[Effect] = []
        while self.deeds and self.deeds[0][0] <= now:
            _, deed, server = self.deeds.pop(0)
            if deed == 0:
                self.kill(server)
            elif deed == 1:
                effects += lose_worker(self.options, server, "it crashed")
            else:
                self.revive(server)
        return effects

    def wake_at(self) -> float | None:
        return self.deeds[0][0] if self.deeds else None

    def validate(self) -> None:
        pass


class DisturbedWorld(World):
    """A cluster in virtual time in which things go wrong.

    A message to a dead server is lost, as is what it was doing. record is told of every later life of a server under an
    address of its own (journal.life), since it begins from nothing.
    """

    def __init__(
        self,
        options: ClusterOptions,
        decide: Decide,
        faults: Faults,
        start: float = 0.0,
        record: Recorder | None = None,
        check: bool = False,
        habits: Habits | None = None,
    ) -> None:
        self.lives: dict[int, int] = {}
        super().__init__(options, decide, start, None if record is None else without(record, (FATE, NOBODY)), check, habits)
        self.faults = faults
        if faults.metric_lag_s:
            self.post = self._lagging(self.post)
        self.slow: dict[str, list[Slow]] = {}
        for slow in faults.slow:
            self.slow.setdefault(worker(slow.server), []).append(slow)
        self.fate = CrashSchedule(faults.crashes, options, self._kill, self._revive)
        self.stage = ActorSlot(FATE, self.fate)
        self._enter(self.stage)

    def _lagging(self, post: Post | None) -> Post:
        def arrival(sender: str, send: Send, now: float) -> float:
            at = now + self.hop_s if post is None else post(sender, send, now)
            return at + self.faults.metric_lag_s if isinstance(send.message, LAGGING) else at

        return arrival

    # -- crashes ------------------------------------------------------------------------------------------------------

    def _kill(self, server: int) -> None:
        """Whatever is on its way to this process is lost with it, since events hold the player they are for."""
        slot = self.slots[worker(server)]
        slot.play(DeadActor())
        slot.address = NOBODY
        if self.host is not None:
            self.host.leave(slot, self.kernel.now)
        if self.shared is not None:
            self._enter(self.shared)

    def _restart(self, kill: Kill, now: float) -> None:
        if self.slots[worker(kill.worker)].address != NOBODY and self.lives.get(kill.worker, 0) == kill.incarnation:
            self.fate.restart(kill.worker, now)
            self._enter(self.stage)

    def _revive(self, server: int) -> None:
        address = worker(server)
        self.lives[server] = self.lives.get(server, 0) + 1
        actor: Actor = build(address, self.options, self.lives[server])
        self.slots[address] = self._slot(life(address, self.lives[server]), actor)
        self._enter(self.slots[address])

    # -- everything else ----------------------------------------------------------------------------------------------

    def _load(self, slot: ActorSlot, load: Load, now: float) -> Loaded:
        task = self.pipeline.tasks[load.task]
        done, name = super()._load(slot, load, now), task.variants[load.variant].name
        for one in self.faults.unloadable:
            there = (one.task, one.variant) == (task.name, name)
            if there and one.from_s <= now < (inf if one.to_s is None else one.to_s):
                done.error = f"variant '{name}': a fault of this run"
        return done

    def _seconds(self, slot: ActorSlot, run: Run, now: float) -> float:
        seconds = super()._seconds(slot, run, now)
        for slow in self.slow.get(address_of(slot.address), ()):
            if slow.from_s <= now < (inf if slow.to_s is None else slow.to_s):
                seconds *= slow.factor
        sigma = self.faults.service_noise
        return seconds * exp(sigma * self._normal(run.batch) - sigma * sigma / 2) if sigma else seconds

    def _normal(self, batch: int) -> float:
        """A standard normal number that depends on seed and batch alone; the uniform may be 0, which has no quantile."""
        return NormalDist().inv_cdf(max(uniform(self.options.seed, batch, NOISE), 2**-54))
