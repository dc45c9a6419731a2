"""The live driver: brings events to the actors of one node and carries out their effects."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Protocol

import zmq

from loki_rl.core.actor import Actor
from loki_rl.core.effects import Drop, Effect, Send
from loki_rl.core.messages import Event, Tick
from loki_rl.serving.clock import clock
from loki_rl.serving.transport.event_queue import EventQueue
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.payloads import NOTHING, Payloads
from loki_rl.serving.transport.troubles import Troubles, kind_of
from loki_rl.serving.transport.wire import ControlWord, Frame, Letter

log = logging.getLogger(__name__)

BURST = 64
# Longest wait, so that a wake-up lost for whatever reason is a pause and not a halt, and that a node which has nothing to do
# shows that it lives.
REST_S = 0.5
# An actor whose wake-up time does not move after a Tick must not turn the loop into a spin.
TICK_S = 0.001

Carry = Callable[[Effect, float], None]
Delivery = tuple[Letter, Sequence[Frame]]


class Source(Protocol):
    """Something that events come from, beside the inbox. handle: what to poll for input."""

    @property
    def handle(self) -> int | zmq.Socket[bytes]: ...

    def collect(self, now: float) -> Iterable[Delivery]:
        """What has come; called when the handle is readable."""


class Recorder(Protocol):
    """Where what the actors were told and asked for is written down."""

    def record(self, address: str, now: float, event: Event, effects: list[Effect]) -> None: ...


class Meter(Protocol):
    """What counts one actor's events and effects."""

    def record(self, event: Event, effects: list[Effect], now: float, /) -> None: ...


@dataclass(slots=True, eq=False)
class Hosted:
    """An actor and what it needs here. carry: does what is neither Send nor Drop. wake: when it wants a Tick [s]."""

    address: str
    actor: Actor
    payloads: Payloads | None
    carry: Carry
    meter: Meter | None
    wake: float = -inf
    ticked: float = -inf
    stale: bool = True


class Driver:
    """homes: address -> node. clock: seconds, comparable between the processes of a plane. strays: letters nobody here
    takes. faults: events, effects, words and sources that failed; an exception costs what it was about and nothing else.
    troubles: these in words. recorders: what each keeps -> who does.
    check: validate every actor after every burst."""

    def __init__(
        self,
        mailbox: Mailbox,
        homes: Mapping[str, str],
        clock: Callable[[], float] = clock,
        check: bool = False,
    ) -> None:
        self.strays = 0
        self.faults = 0
        self.troubles = Troubles(mailbox.node)
        self.stopping = False
        self.mailbox = mailbox
        self.recorders: dict[str, Recorder] = {}
        self.on_word: Callable[[ControlWord], None] | None = None
        self.after_burst: Callable[[], None] | None = None
        self._homes = dict(homes)
        self._clock = clock
        self._check = check
        self._hosted: dict[str, Hosted] = {}
        self._queue: deque[Delivery] = deque()
        self._uncounted: list[tuple[Meter, Event, list[Effect]]] = []
        self._sources: dict[int | zmq.Socket[bytes], Source] = {}
        self._poller = zmq.Poller()
        self._poller.register(mailbox.inbox, zmq.POLLIN)
        self._bell: EventQueue[None] = EventQueue()
        self._poller.register(self._bell.handle, zmq.POLLIN)

    # -- what belongs to the node -------------------------------------------------------------------------------------

    def host(
        self,
        address: str,
        actor: Actor,
        payloads: Payloads | None = None,
        carry: Carry | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._hosted[address] = Hosted(address, actor, payloads, carry or _cannot, meter)

    def listen(self, source: Source) -> None:
        self._sources[source.handle] = source
        self._poller.register(source.handle, zmq.POLLIN)

    def bring(self, deliveries: Iterable[Delivery]) -> None:
        """Deliver these in this burst; from the loop's own thread."""
        self._queue.extend(deliveries)

    def stop(self) -> None:
        """Leave `run` after the burst in hand. For other threads and signal handlers too."""
        self.stopping = True
        self._bell.wake()

    @property
    def frames(self) -> int:
        """Payload frames held for the actors."""
        return sum(len(hosted.payloads) for hosted in self._hosted.values() if hosted.payloads is not None)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self.stopping:
            self.turn()

    def turn(self, longest_s: float = REST_S) -> None:
        """Wait for something to happen, and do all that follows from it."""
        ready = self._poller.poll(self._rest_ms(longest_s))
        now = self._clock()
        for handle, _ in ready:
            self._collect(handle, now)
        self._work(now)
        # On their way before anything is done that nobody waits for.
        self.mailbox.flush()
        self._count(now)
        self._tick(now)
        self._count(now)
        self.mailbox.flush()
        if self.after_burst is not None:
            try:
                self.after_burst()
            except Exception:
                self._fault("what follows a burst failed")

    def close(self) -> None:
        """Its mailbox is closed by whoever made it."""
        self._bell.close()

    def _rest_ms(self, longest_s: float) -> int:
        wake = min((hosted.wake for hosted in self._hosted.values()), default=inf)
        # Rounded up: rounded down, the loop would spin through the last fraction.
        return max(0, ceil(1000 * min(longest_s, wake - self._clock()))) if wake > -inf else 0

    def _collect(self, handle: int | zmq.Socket[bytes], now: float) -> None:
        source = self._sources.get(handle)
        if source is not None:
            try:
                # What it gives before it fails is in the queue by then.
                self._queue.extend(source.collect(now))
            except Exception:
                self._fault(f"{type(source).__name__} cannot be read")
        elif handle is self.mailbox.inbox:
            letters, words = self.mailbox.take(BURST)
            self._queue.extend(letters)
            for word in words:
                self._tell(word)
        else:
            self._bell.collect(now)

    def _tell(self, word: ControlWord) -> None:
        if self.on_word is not None:
            try:
                self.on_word(word)
            except Exception:
                self._fault(f"the word {type(word).__name__} cannot be followed")

    def _work(self, now: float) -> None:
        """Messages between actors of this node go through the same queue, so that none is handled inside another."""
        queue = self._queue
        while queue:
            letter, frames = queue.popleft()
            hosted = self._hosted.get(letter.to)
            if hosted is not None:
                self._deliver(hosted, letter, frames, now)
                continue
            try:
                self._forward(letter, frames)
            except Exception:
                self._fault(f"a letter to '{letter.to}' cannot be passed on")

    def _tick(self, now: float) -> None:
        for hosted in self._hosted.values():
            if hosted.stale:
                self._refresh(hosted)
            if hosted.wake <= now:
                hosted.ticked = now
                self._deliver(hosted, Letter(hosted.address, Tick(), []), (), now)
        if self._queue:
            self._work(now)
        for hosted in self._hosted.values():
            if hosted.stale:
                self._refresh(hosted)

    def _count(self, now: float) -> None:
        """Let the meters see what was handled."""
        for meter, event, effects in self._uncounted:
            try:
                meter.record(event, effects, now)
            except Exception:
                self._fault(f"{type(event).__name__} cannot be counted")
        self._uncounted.clear()

    def _refresh(self, hosted: Hosted) -> None:
        hosted.stale = False
        try:
            wake = hosted.actor.wake_at()
        except Exception:
            self._fault(f"{hosted.address} cannot say when it wants to wake")
            # It is asked again after its next event, and told the time before long.
            wake = hosted.ticked + REST_S
        hosted.wake = inf if wake is None else max(wake, hosted.ticked + TICK_S)
        if self._check:
            hosted.actor.validate()

    # -- one event ----------------------------------------------------------------------------------------------------

    def _deliver(self, hosted: Hosted, letter: Letter, frames: Sequence[Frame], now: float) -> None:
        """One bad event must not end the node, nor one bad effect cost the others: it is counted, and the rest goes on."""
        payloads, event = hosted.payloads, letter.message
        hosted.stale = True
        try:
            if letter.ids and payloads is not None:
                payloads.arrive(event, letter.ids, frames)
            effects = hosted.actor.handle(event, now)
        except Exception:
            self._fault(f"{hosted.address} failed on {type(event).__name__}")
        else:
            for effect in effects:
                try:
                    self._carry_out(hosted, effect, now)
                except Exception:
                    self._fault(f"{hosted.address} asked for {type(effect).__name__}, which failed")
            if self.recorders:
                self._record(hosted.address, now, event, effects)
            if hosted.meter is not None:
                self._uncounted.append((hosted.meter, event, effects))
        if payloads is not None:
            payloads.ended()

    def _record(self, address: str, now: float, event: Event, effects: list[Effect]) -> None:
        """After the effects: a journal that cannot be written costs no request."""
        for kind, recorder in list(self.recorders.items()):
            try:
                recorder.record(address, now, event, effects)
            except Exception:
                # One with a gap cannot be replayed past it, so there is no use in going on.
                del self.recorders[kind]
                self._fault(f"the {kind} cannot be written and ends here; requests are served on", kind)

    def _carry_out(self, hosted: Hosted, effect: Effect, now: float) -> None:
        payloads = hosted.payloads
        if type(effect) is Send:
            ids, frames = NOTHING if payloads is None else payloads.attach(effect.message)
            letter = Letter(effect.to, effect.message, ids)
            if effect.to in self._hosted:
                self._queue.append((letter, frames))
            else:
                self._forward(letter, frames)
        elif type(effect) is not Drop:
            hosted.carry(effect, now)
        elif payloads is not None:
            payloads.drop(effect.families)

    def _fault(self, what: str, kind: str = "") -> None:
        """Of the exception at hand."""
        error = sys.exception()
        self.faults += 1
        self.troubles.record(kind or kind_of(error), f"{what}: {error}")
        log.exception(what)

    def _forward(self, letter: Letter, frames: Sequence[Frame]) -> None:
        node = self._homes.get(letter.to)
        if node is None or node == self.mailbox.node:
            self.strays += 1
            log.warning("nobody has the address '%s'", letter.to)
        else:
            self.mailbox.post(node, letter, frames)


def _cannot(effect: Effect, now: float) -> None:
    raise TypeError(f"this node cannot carry out {type(effect).__name__} (at {now:.3f} s)")
