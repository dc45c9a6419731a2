"""What one process in front of a gateway takes from strangers: every limit, and the count of what was refused."""

from __future__ import annotations

import ctypes
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.gateway.connection import GatewayGoneError
from loki_rl.serving.transport.protocol import MAX_MESSAGE_BYTES, Turned, Turning

# -- connections (HTTP) ----------------------------------------------------------------------------------------------------

MAX_CONNECTIONS = 1000
# Of one address, and inferences with one API key. More than a load generator has, less than all.
MAX_PER_CLIENT = 600
# Beyond those, for whoever asks how we are: the longest there goes when another comes.
RESERVED = 32
# Descriptors of the process that are no client's connection.
OWN_DESCRIPTORS = 64

# -- time [s] --------------------------------------------------------------------------------------------------------------

# From its first byte (for the first one, from the connection) to the end of the head.
HEAD_S = 10.0
# From its first byte to its last, and for taking what was answered.
RECEIPT_S = 30.0
IDLE_S = 75
# Between looks at all connections.
LOOK_S = 1.0
# So many of them at a time, and then others' turn.
LOOK_AT, LOOK_PAUSE_S = 8, 0.005

# -- size [bytes] ----------------------------------------------------------------------------------------------------------

MAX_TARGET_BYTES = 8192
MAX_HEAD_BYTES = 64 << 10
MAX_FIELDS = 100
# A body becomes one message to the gateway, with a header of its own.
MAX_BODY_BYTES = MAX_MESSAGE_BYTES - 4096
# Times the largest body that is read of one that is too large: most clients look for no answer before they have sent all.
LET_GO = 4
# Gone through at a time, between others.
SLICE_BYTES = 16 << 10
# Of all bodies that are not on their way to the gateway yet.
MAX_HELD_BYTES = 256 << 20
# Times what came that may be inflated from it, beyond what is small anyway.
MAX_EXPANSION = 100
SMALL_BYTES = 1 << 20
# Of JSON, or of a message of gRPC without its raw contents: whatever more there is goes as a binary tensor.
MAX_TEXT_BYTES = 8 << 20
# Of the same without the values of tensors.
MAX_TERMS_BYTES = 256 << 10

# -- calls (gRPC) ----------------------------------------------------------------------------------------------------------

# Inferences under way. Twice as many calls of any kind: whoever asks how we are is answered beside them.
MAX_CALLS = 4000
# Of one API key, or of one address where no keys are asked for.
MAX_CALLS_EACH = 3000
MAX_METADATA_BYTES = 16 << 10
# Of inputs, outputs and parameters, and of the fields of a message.
MAX_LISTED = 1000
# A connection without calls is closed after this long [s].
CALL_IDLE_S = 300.0

# A process that has so much more than at its start [bytes] gives back what it has freed, every so many looks.
KEPT_BYTES = 64 << 20
TRIM_LOOKS = 5


class Refusals:
    """Counts by reason, as protocol.Turned has them, of what the gateway has not been told yet."""

    def __init__(self) -> None:
        self._counts: Counter[Turning] = Counter()

    def count(self, reason: Turning) -> None:
        self._counts[reason] += 1

    def tell(self, told: Callable[[Turned], None]) -> None:
        """Those since the last time, if there are any; they are kept while there is no gateway."""
        if self._counts:
            with suppress(GatewayGoneError):
                told(Turned(dict(self._counts)))
                self._counts.clear()


class Shares:
    """Inferences under way of each client, so that none has all the room there is. most: of one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def one(self, client: str) -> Iterator[None]:
        """Raises InferError beyond what one may have."""
        if self._under_way[client] >= self._most:
            raise InferError(429, f"{self._most} inferences of one client are under way", "calls")
        self._under_way[client] += 1
        try:
            yield
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]


class Memory:
    """Gives memory back after a flood: a process of the plane keeps what it frees, since to map a tensor's memory anew costs
    many times what copying it does."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._ordinary = _resident() + KEPT_BYTES
        self._looks = 0

    def look(self) -> None:
        """To be called every LOOK_S."""
        self._looks += 1
        if self._trim is not None and self._looks % TRIM_LOOKS == 0 and _resident() > self._ordinary:
            self._trim(0)


def _resident() -> int:
    """Memory of this process [bytes]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def connections() -> int:
    """How many connections there is room for, once the process may have as many descriptors as it is allowed at most."""
    wanted = MAX_CONNECTIONS + RESERVED + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    room = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    return max(1, room - RESERVED - OWN_DESCRIPTORS)
