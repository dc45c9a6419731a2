"""Large tensors between the processes of a host: written once into files that live in memory, and named in the frames that
travel instead of them.

Who keeps a tensor frees it: the gateway what came with a request and what is an answer, a router the children that wait for
its task. What a process that ended had kept is found by its successor (`sweep`). Where nothing can be shared (a full disk of
memory, none at all) the tensor travels itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable
from mmap import PROT_READ, mmap

from msgspec import Struct

from loki_rl.serving.transport.wire import Array, Frame, WireError, pack, packed_parts

# A smaller tensor is sent in less time than a file is made and mapped.
LEAST_BYTES = 64 << 10
# Of gateway and routers.
REQUEST = "request"
# On its way a name is nowhere but in a message; for longer than this it is in none [s].
LOST_S = 60.0

_MAGIC = b"S\x01"
_SIZE_BYTES = 8
# No frame is that short and begins so: a packed tensor begins otherwise.
_LONGEST = 64


class Reference(Struct, frozen=True):
    """What a frame says of a tensor that did not come with it. size: of its packed form [bytes]."""

    name: str
    size: int

    @property
    def owner(self) -> str:
        return self.name.partition("-")[0]


def of_task(task: int) -> str:
    """The owner of what waits for a task."""
    return f"task{task}"


def reference(frame: Frame) -> Reference | None:
    """What the frame refers to, None if it is a tensor itself. Raises WireError for a name that no process gives."""
    if len(frame) > _LONGEST:
        return None
    data = frame if isinstance(frame, bytes) else frame.bytes
    if not data.startswith(_MAGIC):
        return None
    start = len(_MAGIC)
    name = data[start + _SIZE_BYTES :].decode("ascii", "replace")
    owner, _, token = name.partition("-")
    if not (owner.isalnum() and token.isalnum()):
        raise WireError("a reference to shared memory names no tensor")
    return Reference(name, int.from_bytes(data[start : start + _SIZE_BYTES], "little"))


def size_of(frame: Frame) -> int:
    """Bytes of the packed tensor that a frame is, or refers to."""
    found = reference(frame)
    return len(frame) if found is None else found.size


class SharedMemory:
    """folder: of a plane, empty where it shares nothing."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def pack(self, owner: str, array: Array) -> bytes:
        """A frame for an array: itself, or where it is. Raises WireError for one that cannot be sent."""
        if not self._folder or array.nbytes < LEAST_BYTES:
            return pack(array)
        parts = packed_parts(array)
        name = f"{owner}-{secrets.token_hex(12)}"
        if not self._written(name, parts):
            return b"".join(parts)
        return _MAGIC + sum(map(len, parts)).to_bytes(_SIZE_BYTES, "little") + name.encode()

    def read(self, frame: Frame) -> Frame | memoryview:
        """What `wire.unpack` reads in place. Raises WireError if it is not there any more."""
        found = reference(frame)
        if found is None:
            return frame
        try:
            handle = os.open(self._path(found), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise WireError(f"a tensor in shared memory is not there: {error.strerror}") from None
        try:
            if os.fstat(handle).st_size != found.size or not found.size:
                raise WireError("a tensor in shared memory is not as long as its reference says")
            return memoryview(mmap(handle, found.size, prot=PROT_READ))
        finally:
            os.close(handle)

    def free(self, frame: Frame, owner: str) -> None:
        """Let go of a tensor that is this owner's; who has it mapped may go on reading it."""
        if len(frame) <= _LONGEST:
            with contextlib.suppress(OSError, WireError):
                found = reference(frame)
                if found is not None and found.owner == owner:
                    os.unlink(self._path(found))

    def sweep(self, owner: str, held: Iterable[Frame], now: float | None = None) -> int:
        """Free what nobody has that this owner should have; how many they were. now: time of day [s since 1970]."""
        if not self._folder:
            return 0
        known = {found.name for frame in held if (found := reference(frame)) is not None}
        before = (time.time() if now is None else now) - LOST_S
        lost = 0
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(f"{owner}-") and entry.name not in known and entry.stat().st_mtime < before:
                    os.unlink(entry.path)
                    lost += 1
        return lost

    def _path(self, found: Reference) -> str:
        if not self._folder:
            raise WireError("this plane shares no memory")
        return f"{self._folder}/{found.name}"

    def _written(self, name: str, parts: tuple[bytes, memoryview]) -> bool:
        """Written, not mapped: a disk that is full says so, where a store into a mapped file would end the process."""
        path = f"{self._folder}/{name}"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            size = sum(map(len, parts))
            written = os.writev(handle, parts)
            while 0 < written < size:
                more = os.pwrite(handle, parts[1][written - len(parts[0]) :], written)
                written = written + more if more else 0
            if written == size:
                return True
        except OSError:
            pass
        finally:
            os.close(handle)
        with contextlib.suppress(OSError):
            os.unlink(path)
        return False


NOWHERE = SharedMemory("")
