"""Large tensors between the processes of a host: written once into memory that all of them map, and named in the frames that
travel instead of them.

A process that makes tensors writes them into arenas of its own, files of a folder that lies in memory; every other process
maps an arena once. So a tensor costs one copy, and no call of the system where room was used before. Who keeps a tensor
frees it: the gateway what came with a request and what is an answer, a router the children that wait for its task. What
nobody freed, since its keeper ended, its writer takes back after a while; arenas of writers that ended go with `sweep`.
Where there is no room, or no such memory, the tensor itself travels.

A tensor that was freed while somebody still reads it may be written over: that is one whose request has ended, so what is
made of it is not taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
import time
from mmap import MAP_SHARED, mmap

from msgspec import Struct

from loki_rl.serving.transport.wire import Array, Frame, WireError, pack, packed_parts

# A smaller tensor is sent in less time than it is written, named and read.
LEAST_BYTES = 64 << 10
BLOCK_BYTES = 64 << 10
# Of an arena, unless one tensor needs more; its first block says which others are in use.
USUAL_BLOCKS, MOST_BLOCKS = 128, 4096
MOST_ARENAS = 16
# Nothing is in flight for longer than this [s].
LOST_S = 300.0
# Who keeps a tensor: the gateway, or the router of a task.
GATEWAY_KEEPS = 0

_MAGIC = b"S\x01"
# block, life, size, owner of a Reference; the name of its arena follows.
_TERMS = struct.Struct("<HIIH")
_LIFE = struct.Struct("<I")
_LIVES = 1 << 32
_LONGEST = 96


def of_task(task: int) -> int:
    """The owner of what waits for a task."""
    return task + 1


class Reference(Struct, frozen=True):
    """What a frame says of a tensor that did not come with it. arena: name of a file; block: where it begins; life: which of
    the tensors that ever began there; size: of its packed form [bytes]; owner: who keeps it."""

    arena: str
    block: int
    life: int
    size: int
    owner: int

    def frame(self) -> bytes:
        return _MAGIC + _TERMS.pack(self.block, self.life, self.size, self.owner) + self.arena.encode()


def reference(frame: Frame) -> Reference | None:
    """What the frame refers to, None if it is a tensor itself. Raises WireError for what no process writes."""
    if len(frame) > _LONGEST:
        return None
    data = frame if isinstance(frame, bytes) else frame.bytes
    if not data.startswith(_MAGIC):
        return None
    start = len(_MAGIC) + _TERMS.size
    name = data[start:].decode("ascii", "replace")
    if not name.isalnum():
        raise WireError("a reference to shared memory names no arena")
    block, life, size, owner = _TERMS.unpack_from(data, len(_MAGIC))
    return Reference(name, block, life, size, owner)


def size_of(frame: Frame) -> int:
    """Bytes of the packed tensor that a frame is, or refers to."""
    found = reference(frame)
    return len(frame) if found is None else found.size


class Room(Struct):
    """What a writer has given to a tensor. since: [s]."""

    block: int
    blocks: int
    life: int
    since: float


class Arena:
    """One that this process writes to. Making it raises OSError where there is no room: the memory is taken at once, since a
    store into a file that finds none ends the process."""

    def __init__(self, folder: str, blocks: int) -> None:
        self.name = secrets.token_hex(12)
        path = f"{folder}/{self.name}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Until this process ends, whoever it belongs to and however it ends.
            fcntl.flock(handle, fcntl.LOCK_SH)
            os.posix_fallocate(handle, 0, (blocks + 1) * BLOCK_BYTES)
            self._memory = mmap(handle, (blocks + 1) * BLOCK_BYTES, MAP_SHARED)
        except OSError:
            os.close(handle)
            os.unlink(path)
            raise
        self._used = bytearray(b"\1") + bytes(blocks)
        self._rooms: list[Room] = []
        self._life = 0

    def put(self, parts: tuple[bytes, memoryview], size: int, now: float) -> Room | None:
        """Write a tensor; None where there is no room for it. now: [s]."""
        blocks = -(-size // BLOCK_BYTES)
        block = self._used.find(bytes(blocks))
        if block < 0:
            self._take_back(now)
            block = self._used.find(bytes(blocks))
        if block < 0:
            return None
        self._life = self._life % (_LIVES - 1) + 1
        room = Room(block, blocks, self._life, now)
        self._rooms.append(room)
        self._used[block : block + blocks] = b"\1" * blocks
        start, head = block * BLOCK_BYTES, len(parts[0])
        self._memory[start : start + head] = parts[0]
        self._memory[start + head : start + size] = parts[1]
        _LIFE.pack_into(self._memory, _LIFE.size * block, room.life)
        return room

    def _take_back(self, now: float) -> None:
        """The room of what was freed, and of what nobody has any more."""
        kept: list[Room] = []
        for room in self._rooms:
            freed = _LIFE.unpack_from(self._memory, _LIFE.size * room.block)[0] != room.life
            if not freed and now - room.since < LOST_S:
                kept.append(room)
                continue
            _LIFE.pack_into(self._memory, _LIFE.size * room.block, 0)
            self._used[room.block : room.block + room.blocks] = bytes(room.blocks)
        self._rooms = kept


class SharedMemory:
    """Of one process. folder: of a plane, empty where it shares nothing. One thread packs; any may read and free."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._arenas: list[Arena] = []
        self._mapped: dict[str, mmap] = {}
        self._ended: dict[str, float] = {}

    def pack(self, owner: int, array: Array) -> bytes:
        """A frame for an array: itself, or where it is, for this owner to keep. Raises WireError for one that cannot be
        sent."""
        if not self._folder or array.nbytes < LEAST_BYTES:
            return pack(array)
        parts = packed_parts(array)
        size = len(parts[0]) + len(parts[1])
        placed = self._placed(parts, size)
        if placed is None:
            return b"".join(parts)
        arena, room = placed
        return Reference(arena.name, room.block, room.life, size, owner).frame()

    def read(self, frame: Frame) -> Frame | memoryview:
        """What `wire.unpack` reads in place. Raises WireError if it is not there any more."""
        found = reference(frame)
        if found is None:
            return frame
        memory = self._living(found)
        if memory is None:
            raise WireError("a tensor in shared memory is not there any more")
        start = found.block * BLOCK_BYTES
        return memoryview(memory)[start : start + found.size].toreadonly()

    def free(self, frame: Frame, owner: int) -> None:
        """Let go of a tensor that is this owner's."""
        if len(frame) <= _LONGEST:
            with contextlib.suppress(WireError):
                found = reference(frame)
                memory = self._living(found) if found is not None and found.owner == owner else None
                if found is not None and memory is not None:
                    _LIFE.pack_into(memory, _LIFE.size * found.block, 0)

    def sweep(self, now: float) -> None:
        """Remove arenas whose writers ended a while ago, and forget those that were removed. now: [s]."""
        if not self._folder:
            return
        with contextlib.suppress(OSError):
            there = {entry.name for entry in os.scandir(self._folder)}
            self._mapped = {name: memory for name, memory in self._mapped.items() if name in there}
            ended = [name for name in there if not _locked(f"{self._folder}/{name}")]
            self._ended = {name: self._ended.get(name, now) for name in ended}
            for name, since in self._ended.items():
                if now - since > LOST_S:
                    os.unlink(f"{self._folder}/{name}")

    def _placed(self, parts: tuple[bytes, memoryview], size: int) -> tuple[Arena, Room] | None:
        now = time.monotonic()
        for arena in self._arenas:
            room = arena.put(parts, size, now)
            if room is not None:
                return arena, room
        blocks = max(USUAL_BLOCKS, -(-size // BLOCK_BYTES))
        if len(self._arenas) >= MOST_ARENAS or blocks > MOST_BLOCKS:
            return None
        try:
            arena = Arena(self._folder, blocks)
        except OSError:
            return None
        self._arenas.append(arena)
        room = arena.put(parts, size, now)
        return None if room is None else (arena, room)

    def _living(self, found: Reference) -> mmap | None:
        """The arena of a tensor that has not been freed."""
        memory = self._mapped.get(found.arena) or self._map(found.arena)
        if memory is None or not 0 < found.block * BLOCK_BYTES <= len(memory) - found.size:
            return None
        return memory if _LIFE.unpack_from(memory, _LIFE.size * found.block)[0] == found.life != 0 else None

    def _map(self, name: str) -> mmap | None:
        try:
            handle = os.open(f"{self._folder}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            if os.fstat(handle).st_size < 2 * BLOCK_BYTES or not self._folder:
                return None
            memory = self._mapped[name] = mmap(handle, 0, MAP_SHARED)
            return memory
        finally:
            os.close(handle)


NOWHERE = SharedMemory("")


def _locked(path: str) -> bool:
    """Whether the process that writes to an arena is there; so is one that is made in this moment."""
    with contextlib.suppress(OSError), open(path, "rb") as arena:
        fcntl.flock(arena, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    return True
