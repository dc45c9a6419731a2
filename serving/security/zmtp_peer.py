"""The side of a client in ZMTP 3 without security, towards a gateway that only this user's processes reach: frames of
messages, and messages of frames."""

from __future__ import annotations

from collections.abc import Sequence

_GREETING = 64
_MORE, _LONG, _COMMAND = 1, 2, 4
_SMALL = 255
# Version 3.0, mechanism NULL; then what kind of socket this is.
HELLO = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
HELLO += b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


def frames(parts: Sequence[bytes]) -> list[bytes]:
    """Of one message, to be written one after the other."""
    found: list[bytes] = []
    for place, part in enumerate(parts, 1):
        flags = _MORE if place < len(parts) else 0
        long = len(part) > _SMALL
        found.append(bytes((flags | _LONG,)) + len(part).to_bytes(8, "big") if long else bytes((flags, len(part))))
        found.append(part)
    return found


class Reader:
    """Messages of what the gateway writes. ready: its handshake has ended."""

    def __init__(self) -> None:
        self.ready = False
        self._unread = bytearray()
        self._greeted = False
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[list[bytes]]:
        """The next bytes; the messages that have ended with them."""
        unread = self._unread
        unread += data
        if not self._greeted:
            if len(unread) < _GREETING:
                return []
            self._greeted = True
            del unread[:_GREETING]
        found: list[list[bytes]] = []
        at = 0
        while (head := self._head(at)) is not None:
            flags, begin, end = head
            if flags & _COMMAND:
                self.ready = True  # gateways have one command to say
            else:
                self._parts.append(bytes(unread[begin:end]))
                if not flags & _MORE:
                    found.append(self._parts)
                    self._parts = []
            at = end
        del unread[:at]
        return found

    def _head(self, at: int) -> tuple[int, int, int] | None:
        """Flags of the frame that begins here, and where its body begins and ends; None where it has not come whole."""
        unread = self._unread
        if len(unread) < at + 2:
            return None
        flags = unread[at]
        begin = at + (9 if flags & _LONG else 2)
        if len(unread) < begin:
            return None
        end = begin + int.from_bytes(unread[at + 1 : begin], "big")
        return None if len(unread) < end else (flags, begin, end)
