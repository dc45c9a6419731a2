"""The journal: every event an actor was told, when, and what it asked for. Knows no file, only a function that takes bytes
and an iterable that gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from loki_rl.core.actor import Actor
from loki_rl.core.cluster import build
from loki_rl.core.effects import Effect, effects_decoder
from loki_rl.core.messages import Event, encoder, event_decoder
from loki_rl.core.options import ClusterOptions
from loki_rl.core.requests.seconds import FARTHEST_S
from loki_rl.decoding import UNREADABLE
from loki_rl.errors import UserError
from loki_rl.options import MOST_SERVERS

T = TypeVar("T")

VERSION = 4
LIFE = "#"
LENGTH_BYTES = 4


class JournalError(UserError):
    """The bytes are not a journal, or one of another version, or cut short."""


class Head(Struct, frozen=True):
    """First record: how to build the actors again. incarnations: address -> number of its process life."""

    version: int
    options: ClusterOptions
    incarnations: dict[str, int]


class JournalEntry(Struct, frozen=True, array_like=True, gc=False):
    """One call of `handle`, event and effects as encoded."""

    address: str
    now: float
    event: msgspec.Raw
    effects: msgspec.Raw


class Mismatch(Struct, frozen=True):
    """The first place where the core answers differently now. index counts the entries from 0."""

    index: int
    address: str
    now: float
    event: Event
    recorded: list[Effect]
    replayed: list[Effect]

    def __str__(self) -> str:
        here, there = _first_difference(self.recorded, self.replayed)
        return f"entry {self.index}, {self.address} at {self.now:.6f} s, {self.event}: recorded {here}, now {there}"


class Recorder:
    """Writes a journal. write: takes each record's bytes in order."""

    def __init__(self, write: Callable[[bytes], object], options: ClusterOptions, incarnations: Mapping[str, int]) -> None:
        self._write = write
        self._put(encoder.encode(Head(VERSION, options, dict(incarnations))))

    def record(self, address: str, now: float, event: Event, effects: list[Effect]) -> None:
        """Append one call of an actor's `handle`."""
        entry = JournalEntry(address, now, msgspec.Raw(encoder.encode(event)), msgspec.Raw(encoder.encode(effects)))
        self._put(encoder.encode(entry))

    def _put(self, blob: bytes) -> None:
        self._write(len(blob).to_bytes(LENGTH_BYTES, "big") + blob)


def read(chunks: Iterable[bytes]) -> tuple[Head, Iterator[JournalEntry]]:
    """Head and entries of a journal. Raises JournalError (for the entries: while they are read)."""
    blobs = _blobs(chunks)
    first = next(blobs, None)
    if first is None:
        raise JournalError("the journal is empty")
    head = _decode(first, Head)
    if head.version != VERSION:
        raise JournalError(f"the journal has version {head.version}, this program reads {VERSION}")
    return head, (_decode(blob, JournalEntry) for blob in blobs)


def replay(chunks: Iterable[bytes], check: bool = False) -> Mismatch | int:
    """Run the core again on a journal's events: the first mismatch, or the number of entries that all agree.

    check: validate every actor after each event. Raises JournalError.
    """
    head, entries = read(chunks)
    actors = {address: _built(address, head.options, number) for address, number in head.incarnations.items()}
    count = 0
    for count, entry in enumerate(entries, start=1):
        if entry.address not in actors and address_of(entry.address) in actors:
            actors[entry.address] = _reborn(entry.address, head.options)
        actor = actors.get(entry.address)
        if actor is None:
            raise JournalError(f"entry {count - 1} is for '{entry.address}', which the journal does not begin with")
        if not abs(entry.now) < FARTHEST_S:
            raise JournalError(f"entry {count - 1} is of {entry.now:g} s, which no clock shows")
        mismatch = _again(actor, entry, count - 1)
        if mismatch is not None:
            return mismatch
        if check:
            actor.validate()
    return count


def event_of(entry: JournalEntry) -> Event:
    """What the actor was told. Raises JournalError."""
    event: Event = _read(event_decoder, entry.event)
    return event


def effects_of(entry: JournalEntry) -> list[Effect]:
    """What it asked for. Raises JournalError."""
    return _read(effects_decoder, entry.effects)


def life(address: str, incarnation: int) -> str:
    """The address under which a later life of an actor's process is recorded."""
    return f"{address}{LIFE}{incarnation}"


def address_of(recorded: str) -> str:
    """The actor's own address, whichever of its lives it is."""
    return recorded.partition(LIFE)[0]


def _reborn(recorded: str, options: ClusterOptions) -> Actor:
    address, _, incarnation = recorded.partition(LIFE)
    if not incarnation.isdecimal():
        raise JournalError(f"'{recorded}' is no life of '{address}'")
    return _built(address, options, int(incarnation))


def _built(address: str, options: ClusterOptions, incarnation: int) -> Actor:
    """Options of a cluster that ran can be built; whatever others make of it, they are none."""
    if not 0 < options.servers <= MOST_SERVERS:
        raise JournalError(f"the journal is of {options.servers} servers; there are 1 to {MOST_SERVERS}")
    try:
        return build(address, options, incarnation)
    except Exception as error:
        raise JournalError(f"'{address}' cannot be built as the journal says: {type(error).__name__}: {error}") from error


def _again(actor: Actor, entry: JournalEntry, index: int) -> Mismatch | None:
    event = event_of(entry)
    effects, encoded = _handled(actor, event, entry, index)
    if encoded == bytes(entry.effects):
        return None
    return Mismatch(index, entry.address, entry.now, event, effects_of(entry), effects)


def _handled(actor: Actor, event: Event, entry: JournalEntry, index: int) -> tuple[list[Effect], bytes]:
    """What the actor asks for, also encoded. It believes what it is told, and what was recorded it has handled once."""
    try:
        effects = actor.handle(event, entry.now)
        return effects, encoder.encode(effects)
    except Exception as error:
        what = f"{entry.address} fails on {type(event).__name__}: {type(error).__name__}: {error}"
        raise JournalError(f"entry {index}: {what}") from error


def _first_difference(recorded: list[Effect], replayed: list[Effect]) -> tuple[Effect | None, Effect | None]:
    for here, there in zip(recorded, replayed, strict=False):
        if encoder.encode(here) != encoder.encode(there):
            return here, there
    shared = min(len(recorded), len(replayed))
    return next(iter(recorded[shared:]), None), next(iter(replayed[shared:]), None)


def _blobs(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(held[:LENGTH_BYTES], "big")
            if len(held) < end:
                break
            yield bytes(held[LENGTH_BYTES:end])
            del held[:end]
    if held:
        raise JournalError("the journal ends in the middle of a record")


def _decode(blob: bytes, kind: type[T]) -> T:
    return _read(msgspec.msgpack.Decoder(kind), blob)


def _read(decoder: msgspec.msgpack.Decoder[T], blob: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(blob)
    except UNREADABLE as error:
        raise JournalError(f"not a journal: {error}") from error
