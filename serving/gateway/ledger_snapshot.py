"""What a gateway's process writes down each second, so that the next one goes on where it was killed.

Two kinds of files, so that a second costs the same after a month as after a minute: logs, to which seconds that no longer
change and new plans are appended, and the snapshot proper with all that does change, which is replaced each time. It says
how much of the logs belongs to it; a record has its length and a checksum before it, and what is cut short is not read.
Nothing is forced to the disk: it is a process that may die, and with the host the whole plane ends.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.messages import Restored
from loki_rl.core.requests.ledger import PlanRecord, Second, Tally
from loki_rl.decoding import UNREADABLE
from loki_rl.serving.state import Requests
from loki_rl.serving.transport.serial_executor import SerialExecutor

log = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 2
LENGTH_BYTES = CHECK_BYTES = 4
# A second without open requests is final after so long: the count of its servers has come by then.
FINAL_S = 60
# A log that is longer is followed by another, so that those whose seconds are all too old can go.
LOG_BYTES = 1 << 20
# Between tries while the disk takes nothing.
RETRY_S = 5.0


class Standing(Struct):
    """Where a gateway stands, without its ledger. leaving: clients are told to go elsewhere. opened: when clients were first
    served [s]. vanished, malformed: as in ClientSocket."""

    gateway: Restored
    leaving: bool
    opened: float
    vanished: int
    malformed: int
    requests: Requests


class Snapshot(Struct):
    """tally: without plans, and of seconds those that may still change. oldest: the first second that is kept by itself.
    logs: numbers of the files with the others; length: bytes of the last that are meant."""

    version: int
    standing: Standing
    tally: Tally
    oldest: int
    logs: list[int]
    length: int


class Logged(Struct, array_like=True):
    """A record of a log: seconds that are final, and plans that have come in force."""

    seconds: dict[int, Second]
    plans: list[PlanRecord]


class SnapshotWriter:
    """path: of the snapshot; its logs are beside it. failures: snapshots that could not be written; failure: the last of
    these, in words.

    The disk is left to a thread: it may be slow. One that takes nothing costs a warning and the snapshots.
    """

    def __init__(self, path: Path) -> None:
        self.failures = 0
        self.failure = ""
        self._path = path
        self._executor = SerialExecutor("ledger")
        self._idle = True
        self._error: OSError | None = None
        self._retry_at = 0.0
        self._tally: Tally | None = None
        self._plan: PlanRecord | None = None
        self._first = 0
        self._open: set[int] = set()
        # Number of a log -> its newest second.
        self._logs: dict[int, int] = {}
        self._next_log = max(_logs(path), default=-1) + 1
        self._length = 0

    def write(self, standing: Standing, tally: Tally, oldest: int, now: float) -> None:
        """Write down what has changed since the last time; not while that is still being written. oldest: see Snapshot."""
        if self._idle and now >= self._retry_at and not self._failed(now):
            if tally is not self._tally:
                self._begin(tally, standing.gateway.second)
            if self._length > LOG_BYTES:
                self._rotate(oldest)
            blob = self._final(tally, standing.gateway.second)
            last, offset = max(self._logs), self._length
            self._length += len(blob)
            snapshot = self._snapshot(standing, tally, oldest)
            self._idle = False
            self._executor.put(partial(self._store, _log(self._path, last), blob, offset, snapshot, set(self._logs)))

    def close(self, timeout_s: float) -> None:
        self._executor.close(timeout_s)

    def _begin(self, tally: Tally, second: int) -> None:
        """All of a ledger, into a new log."""
        self._tally, self._plan = tally, None
        self._first = min(tally.seconds, default=max(0, second - FINAL_S))
        self._open = set()
        self._logs = {}
        self._add_log()

    def _rotate(self, oldest: int) -> None:
        self._logs = {number: newest for number, newest in self._logs.items() if newest >= oldest}
        self._add_log()

    def _add_log(self) -> None:
        self._logs[self._next_log] = -1
        self._next_log += 1
        self._length = 0

    def _final(self, tally: Tally, second: int) -> bytes:
        """A record of what no longer changes; empty if there is nothing new."""
        seconds = tally.seconds
        final_by = max(self._first, second - FINAL_S + 1)
        self._open.update(range(self._first, final_by))
        self._first = final_by
        self._open &= seconds.keys()
        final = {number: seconds[number] for number in sorted(self._open) if not seconds[number].open}
        self._open -= final.keys()
        plans = self._new_plans(tally)
        if not final and not plans:
            return b""
        newest = max(self._logs)
        self._logs[newest] = max(self._logs[newest], *final, -1)
        return _record(Logged(final, plans))

    def _new_plans(self, tally: Tally) -> list[PlanRecord]:
        """A log begins with the plan that is in force: the log that had it may go before this one does."""
        plans = tally.plans
        first = _after(plans, self._plan)
        self._plan = plans[-1] if plans else None
        return plans[first if self._length else max(0, first - 1) :]

    def _snapshot(self, standing: Standing, tally: Tally, oldest: int) -> bytes:
        numbers = (*sorted(self._open), *range(self._first, standing.gateway.second + 2))
        seconds = {number: found for number in numbers if (found := tally.seconds.get(number)) is not None}
        kept = replace(tally, seconds=seconds, plans=[])
        return _record(Snapshot(VERSION, standing, kept, oldest, sorted(self._logs), self._length))

    def _failed(self, now: float) -> bool:
        """Whether the last could not be written: then all is written anew, but not at once."""
        error, self._error = self._error, None
        if error is None:
            return False
        self.failure = f"the ledger cannot be kept for a restart of the gateway in {self._path.parent}: {error}"
        if not self.failures:
            log.warning(self.failure)
        self.failures += 1
        self._tally = None
        self._retry_at = now + RETRY_S
        return True

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _store(self, file: Path, blob: bytes, offset: int, snapshot: bytes, logs: set[int]) -> None:
        try:
            if blob:
                _write_at(file, blob, offset)
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_bytes(snapshot)
            fresh.replace(self._path)
            if not offset:  # a log has begun, so others may have become needless
                for number in _logs(self._path).keys() - logs:
                    _log(self._path, number).unlink(missing_ok=True)
        except OSError as error:
            self._error = error
        self._idle = True


def read_snapshot(path: Path) -> tuple[Standing, Tally] | None:
    """What was last written down; None if there is nothing that can be read. What was open then is open in it."""
    found = next(_read(path, Snapshot), None)
    if found is None or found.version != VERSION:
        return None
    tally = found.tally
    changing, tally.seconds = tally.seconds, {}
    for number in found.logs:
        for logged in _read(_log(path, number), Logged, found.length if number == found.logs[-1] else None):
            tally.seconds |= {number: second for number, second in logged.seconds.items() if number >= found.oldest}
            tally.plans += logged.plans if logged.plans[:1] != tally.plans[-1:] else logged.plans[1:]
    tally.seconds = dict(sorted({**tally.seconds, **changing}.items()))
    return found.standing, tally


def _read(path: Path, kind: type[T], length: int | None = None) -> Iterator[T]:
    try:
        for body in _bodies(path.read_bytes()[:length]):
            yield msgspec.msgpack.decode(body, type=kind)
    except FileNotFoundError:
        return
    except (OSError, *UNREADABLE) as error:
        log.warning("%s cannot be read, the ledger goes on without it: %s", path, error)


def _record(thing: Struct) -> bytes:
    body = msgspec.msgpack.encode(thing)
    return len(body).to_bytes(LENGTH_BYTES, "big") + zlib.crc32(body).to_bytes(CHECK_BYTES, "big") + body


def _bodies(data: bytes) -> Iterator[bytes]:
    """Those of whole records, up to the first that is not."""
    at = 0
    while at + LENGTH_BYTES + CHECK_BYTES <= len(data):
        start = at + LENGTH_BYTES + CHECK_BYTES
        end = start + int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        body = data[start:end]
        if end > len(data) or zlib.crc32(body) != int.from_bytes(data[at + LENGTH_BYTES : start], "big"):
            return
        yield body
        at = end


def _log(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _logs(path: Path) -> dict[int, Path]:
    """Number -> file, of the logs that are there."""
    found = {file.name.removeprefix(f"{path.name}."): file for file in path.parent.glob(f"{path.name}.*")}
    return {int(number): file for number, file in found.items() if number.isdecimal()}


def _after(plans: list[PlanRecord], last: PlanRecord | None) -> int:
    """Place of the first plan after this one."""
    return next((place + 1 for place in reversed(range(len(plans))) if plans[place] is last), 0)


def _write_at(file: Path, blob: bytes, offset: int) -> None:
    """At a place: what a failed try has left there is written over."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(blob)
        while left:
            written = os.pwrite(handle, left, offset)
            left, offset = left[written:], offset + written
    finally:
        os.close(handle)
