"""One message off a socket: its first parts as bytes, the rest as frames that are not copied. Owns this reading; must not
know what a part means.

An idle process reads with cold caches: a Frame costs three times what its bytes do, and headers are small.
"""

from __future__ import annotations

import zmq
import zmq.backend

Parts = tuple[list[bytes], list[zmq.Frame]]

# Plain ints and the methods below pyzmq's own: IntFlag arithmetic and argument checks cost more than the call itself.
_receive = zmq.backend.Socket.recv
_option = zmq.backend.Socket.get
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.RCVMORE)


def receive(socket: zmq.Socket[bytes], head: int, most: int) -> Parts:
    """At most `head` parts as bytes and `most` as frames, without waiting: raises zmq.Again where there is no message. It is
    read to its end whatever it holds, else the next one is misread."""
    first = [_receive(socket, _NOBLOCK)]
    while len(first) < head and _option(socket, _MORE):
        first.append(_receive(socket, _NOBLOCK))
    return first, rest(socket, most)


def rest(socket: zmq.Socket[bytes], most: int) -> list[zmq.Frame]:
    """At most so many frames of what is left of a message; what is beyond them is read and let go."""
    frames: list[zmq.Frame] = []
    more = _option(socket, _MORE)
    while more:
        frame = socket.recv(_NOBLOCK, False)
        more = frame.more
        if len(frames) < most:
            frames.append(frame)
    return frames
