"""The file of a flight recorder: chunks of rows, appended by every process of a plane to one file, each in one write.

A chunk is MAGIC, its length, the check sum of its body, and the body: zlib of what loki_rl/flight/packing.py makes of rows.
One that was cut short (a full disk, a process that was killed) is passed over, and the next one is found by its magic."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from loki_rl.core.options import ClusterOptions
from loki_rl.decoding import UNREADABLE
from loki_rl.errors import UserError
from loki_rl.flight.packing import MOST_ROWS, Part, pack, unpack
from loki_rl.flight.rows import AnyRow

VERSION = 2
MAGIC = b"LokiFly1"
HEADER_BYTES = len(MAGIC) + 8
# Rows wait this long before they are written [s] if nobody says otherwise, and no longer if there are so many.
EVERY_S = 1.0
MANY_ROWS = 4096
# A longer chunk than any that is written is none.
MOST_BYTES = 16 << 20
BLOCK_BYTES = 4 << 20
LEVEL = 1
# What clients asked for is their affair.
PRIVATE_FILE = 0o600


class FlightError(UserError):
    """The file is no recording, or one of another version; the message says why and what to do."""


class Head(Struct, frozen=True):
    """First chunk. run: the options of the run as in its run.json, empty if nobody said. host: where it ran, in words.
    unix_s: the time of day [s since 1970] when the actors' clock showed `clock_s` [s]."""

    version: int
    cluster: ClusterOptions
    run: str
    host: str
    unix_s: float
    clock_s: float


def begin(path: Path, head: Head) -> None:
    """Make the file. Raises OSError, FileExistsError where there is one."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        _append(file, msgspec.msgpack.encode(head))
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(file)


class Writer:
    """Of one process, for a file that was begun. every_s: how long rows wait [s]. Opening raises OSError, as does writing;
    then nothing more should be written."""

    def __init__(self, path: Path, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._rows: list[AnyRow] = []
        self._written = 0.0

    def put(self, row: AnyRow) -> None:
        """Keep a row until the next `flush`."""
        self._rows.append(row)

    def tick(self, now: float) -> None:
        """Write what there is if it is time to."""
        if self._rows and (now - self._written >= self._every_s or len(self._rows) >= MANY_ROWS):
            self._written = now
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        rows, self._rows = self._rows, []
        for first in range(0, len(rows), MOST_ROWS):
            _append(self._file, pack(rows[first : first + MOST_ROWS]))

    def close(self) -> None:
        """Write what there is and end."""
        try:
            self.flush()
        finally:
            os.close(self._file)


def _append(file: int, content: bytes) -> None:
    body = zlib.compress(content, LEVEL)
    chunk = MAGIC + len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body
    # One write, so that chunks of several processes do not mix.
    if os.write(file, chunk) != len(chunk):
        raise OSError(errno.ENOSPC, "the disk took a part of a chunk only")


class Tail:
    """A recording that may still be written: `poll` gives what came since. Raises FlightError, as does `poll`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = bytearray()
        self.head: Head | None = None
        try:
            if path.exists() and not path.is_file():
                raise FlightError(f"{path} is not a recording: it is no file")
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise FlightError(f"{path} cannot be read: {error.strerror}") from error

    def poll(self) -> Iterator[Part]:
        """What was written since, in that order: rows of one process are in order of time."""
        while self._read():
            for body in self._bodies():
                part = self._part(body)
                if part is not None:
                    yield part

    def close(self) -> None:
        self._file.close()

    def _read(self) -> bool:
        try:
            new = self._file.read(BLOCK_BYTES)
        except OSError as error:
            raise FlightError(f"{self._path} cannot be read: {error.strerror}") from error
        self._held += new
        return bool(new)

    def _bodies(self) -> Iterator[bytes]:
        held = self._held
        while True:
            start = held.find(MAGIC)
            if start < 0:
                del held[: max(0, len(held) - len(MAGIC) + 1)]
                return
            del held[:start]
            body = self._body()
            if body is None:
                return
            if body:
                yield body

    def _body(self) -> bytes | None:
        """The chunk that begins what is held: None if it is not all there yet, empty if it is broken."""
        held = self._held
        if len(held) < HEADER_BYTES:
            return None
        length = int.from_bytes(held[len(MAGIC) : len(MAGIC) + 4], "big")
        body = bytes(held[HEADER_BYTES : HEADER_BYTES + length])
        whole = length <= MOST_BYTES and len(body) == length
        if whole and zlib.crc32(body) == int.from_bytes(held[len(MAGIC) + 4 : HEADER_BYTES], "big"):
            del held[: HEADER_BYTES + length]
            return body
        if not whole and length <= MOST_BYTES and held.find(MAGIC, 1) < 0:
            return None
        del held[: len(MAGIC)]
        return b""

    def _part(self, body: bytes) -> Part | None:
        content = self._unpacked(body)
        try:
            if self.head is not None:
                return unpack(content)
            self.head = self._checked(msgspec.msgpack.decode(content, type=Head))
        except (ValueError, *UNREADABLE) as error:
            raise FlightError(f"{self._path} is not a recording of this version ({VERSION}): {error}") from error
        return None

    def _unpacked(self, body: bytes) -> bytes:
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(body, MOST_BYTES)
        except zlib.error as error:
            raise FlightError(f"{self._path} is not a recording: {error}") from error
        if unpacker.unconsumed_tail:
            raise FlightError(f"{self._path} is not a recording: a chunk of it is larger than {MOST_BYTES >> 20} MB")
        return content

    def _checked(self, head: Head) -> Head:
        if head.version != VERSION:
            raise FlightError(f"{self._path} is a recording of version {head.version}, this program reads {VERSION}")
        return head
