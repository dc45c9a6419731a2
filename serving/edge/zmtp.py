"""What a native client says on its connection, watched byte by byte.

libzmq keeps the parts of a message until its last one has come and limits the size of each, not their number: a message
without an end would fill the memory of its reader, and one of millions of empty parts would take seconds to read.
"""

from __future__ import annotations

_GREETING = 64
_MAJOR = 10
_MORE, _LONG, _COMMAND = 1, 2, 4
MAX_COMMAND_BYTES = 4096


class ZmtpError(ValueError):
    """The connection is to be closed; the message says why."""


class Watch:
    """One direction of a connection. most_parts, most_bytes: of a message. unfinished: bytes so far of a message whose end
    has not come. ended: messages and commands so far."""

    def __init__(self, most_parts: int, most_bytes: int) -> None:
        self.unfinished = 0
        self.ended = 0
        self._most_parts = most_parts
        self._most_bytes = most_bytes
        self._greeted = 0
        self._head = bytearray()
        self._body = 0
        self._last = True
        self._parts = 0
        self._declared = 0

    @property
    def midway(self) -> bool:
        """Whether something has begun that has not ended: the greeting, a frame or a message."""
        return self._greeted < _GREETING or bool(self._head) or self._body > 0 or self._parts > 0

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises ZmtpError for what is not ZMTP 3 and for messages beyond the limits."""
        at = self._greet(data) if self._greeted < _GREETING else 0
        while at < len(data):
            if not self._body:
                at = self._begin(data, at)
            step = min(self._body, len(data) - at)
            at += step
            self._body -= step
            self.unfinished += step if self._parts else 0
            if not self._body and not self._head and self._last:
                self._parts = self._declared = self.unfinished = 0
                self.ended += 1

    def _greet(self, data: bytes) -> int:
        """Where the frames begin."""
        for place, byte in enumerate(data[: _GREETING - self._greeted], self._greeted):
            if (place == 0 and byte != 0xFF) or (place == _MAJOR - 1 and byte != 0x7F) or (place == _MAJOR and byte < 3):
                raise ZmtpError("it does not speak ZMTP 3")
        begun = self._greeted
        self._greeted = min(_GREETING, begun + len(data))
        return self._greeted - begun

    def _begin(self, data: bytes, at: int) -> int:
        """Read on in the head of a frame: flags, and its size in one byte or eight."""
        head = self._head
        if not head:
            head.append(data[at])
            at += 1
            if head[0] > (_MORE | _LONG | _COMMAND) or head[0] & (_MORE | _COMMAND) == (_MORE | _COMMAND):
                raise ZmtpError("a frame has flags that ZMTP 3 does not know")
        whole = 9 if head[0] & _LONG else 2
        taken = data[at : at + whole - len(head)]
        head += taken
        if len(head) == whole:
            self._enter(head[0], int.from_bytes(head[1:], "big"))
            head.clear()
        return at + len(taken)

    def _enter(self, flags: int, size: int) -> None:
        self._body = size
        if flags & _COMMAND:
            if size > MAX_COMMAND_BYTES:
                raise ZmtpError(f"a command has {size} bytes, more than {MAX_COMMAND_BYTES}")
            return
        self._parts += 1
        self._declared += size
        self._last = not flags & _MORE
        if self._parts > self._most_parts:
            raise ZmtpError(f"a message has more than {self._most_parts} parts")
        if self._declared > self._most_bytes:
            raise ZmtpError(f"a message has more than {self._most_bytes} bytes")
