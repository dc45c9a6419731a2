"""Whether a connection of a socket broke. Owns the socket that libzmq tells it on; must not know what the connection
was for."""

from __future__ import annotations

import zmq

from loki_rl.serving.mailbox import Context, readable


class Disconnections:
    """Of one socket, from its making on. handle: readable when a connection broke; what the other end had sent before can
    be read by then."""

    def __init__(self, context: Context, watched: zmq.Socket[bytes]) -> None:
        self._watched = watched
        self.handle = context.socket(zmq.PAIR)
        # Without a limit: libzmq's own thread would wait for a reader, and with it all of the context's connections.
        self.handle.setsockopt(zmq.RCVHWM, 0)
        endpoint = f"inproc://disconnections-{id(watched)}"
        watched.monitor(endpoint, zmq.EVENT_DISCONNECTED)
        self.handle.connect(endpoint)

    def happened(self) -> bool:
        """Whether any connection broke since the last question."""
        found = False
        while readable(self.handle):
            self.handle.recv_multipart()
            found = True
        return found

    def close(self) -> None:
        """Before the watched socket."""
        self._watched.disable_monitor()
        self.handle.close(linger=0)
