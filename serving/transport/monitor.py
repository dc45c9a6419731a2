"""What libzmq tells of the connections of a socket."""

from __future__ import annotations

from itertools import count

import zmq
from zmq.utils.monitor import parse_monitor_message

from loki_rl.serving.transport.multipart import Context, readable

# No number twice: libzmq lets go of an endpoint some time after its socket was closed.
_NUMBERS = count()


class Monitor:
    """Of one socket and some kinds of events (zmq.EVENT_...). handle: readable when there are any. When a connection broke,
    what the other end had sent before can be read; but what is sent may still go to the broken connection, and be lost."""

    def __init__(self, context: Context, watched: zmq.Socket[bytes], events: int) -> None:
        self._watched = watched
        self.handle = context.socket(zmq.PAIR)
        # Without a limit: libzmq's own thread would wait for a reader, and with it all of the context's connections.
        self.handle.setsockopt(zmq.RCVHWM, 0)
        endpoint = f"inproc://monitor-{next(_NUMBERS)}"
        watched.monitor(endpoint, events)
        self.handle.connect(endpoint)

    def read(self) -> list[int]:
        """The events since the last question, in their order."""
        found: list[int] = []
        while readable(self.handle):
            found.append(int(parse_monitor_message(self.handle.recv_multipart())["event"]))
        return found

    def close(self) -> None:
        """Before the watched socket."""
        self._watched.disable_monitor()
        self.handle.close(linger=0)
