"""One message off a socket: its first parts as bytes, the rest as frames that are not copied.

An idle process reads with cold caches: a Frame costs three times what its bytes do, and headers are small.
"""

from __future__ import annotations

import zmq
import zmq.backend

Context = zmq.Context[zmq.Socket[bytes]]
Parts = tuple[list[bytes], list[zmq.Frame]]

# Plain ints, and the methods below pyzmq's own, for which it has no public name: IntFlag arithmetic and argument checks
# cost more than the call itself.
NOBLOCK = int(zmq.NOBLOCK)
SEND_MORE = NOBLOCK | int(zmq.SNDMORE)
send = zmq.backend.Socket.send
receive_bytes = zmq.backend.Socket.recv
_option = zmq.backend.Socket.get
_EVENTS, _POLLIN, _RECEIVE_MORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.RCVMORE)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message is there."""
    return bool(int(_option(socket, _EVENTS)) & _POLLIN)


def receive(socket: zmq.Socket[bytes], head: int, most: int) -> Parts:
    """At most `head` parts as bytes and `most` as frames, without waiting: raises zmq.Again where there is no message. It is
    read to its end whatever it holds, else the next one is misread."""
    first = [receive_bytes(socket, NOBLOCK)]
    while len(first) < head and _option(socket, _RECEIVE_MORE):
        first.append(receive_bytes(socket, NOBLOCK))
    return first, rest(socket, most)


def rest(socket: zmq.Socket[bytes], most: int) -> list[zmq.Frame]:
    """At most so many frames of what is left of a message; what is beyond them is read and let go."""
    frames: list[zmq.Frame] = []
    more = _option(socket, _RECEIVE_MORE)
    while more:
        frame = socket.recv(NOBLOCK, False)
        more = frame.more
        if len(frames) < most:
            frames.append(frame)
    return frames
