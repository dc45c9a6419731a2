"""A relay between a client and a port, which notes what every client says."""

from __future__ import annotations

import contextlib
import socket
import threading

from loki_rl.serving.transport.listening import listen


class Relay:
    """said: all that each connection's client sent."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.said: list[bytes] = []
        self._to = (host, port)
        self._bound = listen("127.0.0.1", 0)
        self._bound.listen()
        self.port = self._bound.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._bound.accept()
                server = socket.create_connection(self._to)
                self._open += [client, server]
                heard = bytearray()
                for one in (
                    threading.Thread(target=self._pass, args=(client, server, heard), daemon=True),
                    threading.Thread(target=self._pass, args=(server, client, None), daemon=True),
                ):
                    one.start()
                    self._threads.append(one)

    def _pass(self, there: socket.socket, here: socket.socket, heard: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := there.recv(1 << 16):
                if heard is not None:
                    heard += data
                here.sendall(data)
        for one in (there, here):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if heard is not None:
            self.said.append(bytes(heard))

    def close(self) -> None:
        """Once its clients have left."""
        with contextlib.suppress(OSError):
            self._bound.shutdown(socket.SHUT_RDWR)
        self._bound.close()
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()
