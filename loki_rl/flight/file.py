"""The file of a flight recorder: chunks of rows, appended by every process of a plane to one file, each in one write.

A chunk is MAGIC, its length, the check sum of its body, and the body: zlib of msgpack. One that was cut short (a full disk,
a process that was killed) is passed over, and the next one is found by its magic."""

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
from loki_rl.flight.rows import AnyRow, rows_decoder, rows_encoder

VERSION = 1
MAGIC = b"LokiFly1"
HEADER_BYTES = len(MAGIC) + 8
# Rows wait this long before they are written [s], and at most so many.
EVERY_S = 1.0
MOST_ROWS = 4096
# A longer chunk than any that is written is none.
MOST_BYTES = 64 << 20
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
        _append(file, rows_encoder.encode(head))
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(file)


class Writer:
    """Of one process, for a file that was begun. Opening raises OSError, as does writing; then nothing more should be
    written."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._rows: list[AnyRow] = []
        self._written = 0.0

    def put(self, row: AnyRow) -> None:
        """Keep a row until the next `flush`."""
        self._rows.append(row)

    def tick(self, now: float) -> None:
        """Write what there is if it is time to."""
        if self._rows and (now - self._written >= EVERY_S or len(self._rows) >= MOST_ROWS):
            self._written = now
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        rows, self._rows = self._rows, []
        if rows:
            _append(self._file, rows_encoder.encode(rows))

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
    """A recording that is still written: `poll` gives what came since. Raises FlightError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._held = bytearray()
        self.head: Head | None = None

    def poll(self) -> list[AnyRow]:
        """Rows since the last call, in the order in which they were written: those of one process are in order of time."""
        self._read()
        return [row for body in self._bodies() for row in self._rows(body)]

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError as error:
            raise FlightError(f"{self._path} cannot be read: {error.strerror}") from error
        self._offset += len(new)
        self._held += new

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

    def _rows(self, body: bytes) -> list[AnyRow]:
        content = self._unpacked(body)
        try:
            if self.head is None:
                self.head = self._checked(msgspec.msgpack.decode(content, type=Head))
                return []
            return rows_decoder.decode(content)
        except UNREADABLE as error:
            raise FlightError(f"{self._path} is not a recording of this version ({VERSION}): {error}") from error

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
