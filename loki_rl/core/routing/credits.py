"""The workers of one task as its router sees them: who pulls, who has a credit, who is silent. Owns these records; knows no
item and no plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loki_rl.core.messages import Ready, worker

Kind = tuple[int, int, int]  # type of server, variant, batch
Times = tuple[float, ...]


@dataclass(slots=True, eq=False)
class Puller:
    """A worker that pulls here. waiting: its unused credit; serial: of the last credit used; latest: its last batch; times:
    number of items -> service time [s] on its server; cap: the largest batch that it runs."""

    number: int
    incarnation: int
    server_type: int
    address: str
    variant: int = -1
    batch: int = 0
    times: Times = ()
    cap: int = 0
    serial: int = -1
    waiting: int | None = None
    latest: int = -1

    @property
    def kind(self) -> Kind:
        return self.server_type, self.variant, self.batch

    @property
    def rate(self) -> float:
        """Items per second, in full batches."""
        return self.cap / self.times[self.cap]


class Credits:
    """service_s: type of server -> variant -> n -> service time [s]. type_of: of a server's number. all: by number. idle:
    those with a credit, who has waited longest first. kinds: of those that pull. rate: items per second of all of them.
    silent: those whose batch did not come back in time, until they are heard of. changes: rises whenever who pulls for what
    has changed."""

    def __init__(self, service_s: Sequence[Sequence[Times]], type_of: Callable[[int], int]) -> None:
        self.all: dict[int, Puller] = {}
        self.idle: dict[int, Puller] = {}
        self.silent: dict[int, Puller] = {}
        self.kinds: set[Kind] = set()
        self.rate = 0.0
        self.changes = 0
        self._service_s, self._type_of = service_s, type_of

    def credit(self, event: Ready) -> None:
        """A credit for one batch; a repeat of one that is used is nothing, of one that is open takes its place."""
        number = event.worker
        if self.silent:
            self.heard(number, event.incarnation)
        puller = self.all.get(number)
        if puller is None or event.incarnation > puller.incarnation:
            puller = self.all[number] = Puller(number, event.incarnation, self._type_of(number), worker(number))
        if event.incarnation < puller.incarnation or event.serial <= puller.serial:
            return
        self.idle.pop(number, None)
        self.idle[number] = puller
        puller.waiting = event.serial
        if puller.variant != event.variant or puller.batch != event.batch or puller.serial < 0:
            puller.variant, puller.batch = event.variant, event.batch
            puller.times = self._service_s[puller.server_type][event.variant]
            puller.cap = min(puller.batch, len(puller.times) - 1)
            self._recount()

    def retime(self) -> None:
        """Service times have changed."""
        for puller in (*self.all.values(), *self.silent.values()):
            puller.times = self._service_s[puller.server_type][puller.variant]
        self._recount()

    def spend(self, puller: Puller) -> None:
        """Its credit is used."""
        assert puller.waiting is not None
        puller.serial, puller.waiting = puller.waiting, None
        del self.idle[puller.number]

    def leave(self, number: int, incarnation: int) -> None:
        """It pulls no more; a batch in its hands will still come back."""
        self.silent.pop(number, None)
        puller = self.all.get(number)
        if puller is not None and puller.incarnation == incarnation:
            self._remove(number)

    def lose(self, number: int) -> Puller | None:
        """It is gone, or treated as gone."""
        self.silent.pop(number, None)
        return self._remove(number) if number in self.all else None

    def silence(self, number: int) -> None:
        """Nothing came back in time: nothing more is given to it until it is heard of again."""
        puller = self.lose(number)
        if puller is not None:
            self.silent[number] = puller

    def heard(self, number: int, incarnation: int) -> None:
        """A silent worker was only slow. It will not repeat the credit it had given before, so that stands again."""
        puller = self.silent.pop(number, None)
        if puller is not None and puller.incarnation == incarnation:
            self.all[number] = puller
            if puller.waiting is not None:
                self.idle[number] = puller
            self._recount()

    def _remove(self, number: int) -> Puller:
        self.idle.pop(number, None)
        puller = self.all.pop(number)
        self._recount()
        return puller

    def _recount(self) -> None:
        self.changes += 1
        self.kinds = {puller.kind for puller in self.all.values()}
        self.rate = sum(puller.rate for puller in self.all.values())
