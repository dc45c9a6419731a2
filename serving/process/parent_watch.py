"""The tie between a child process and its launcher: a socket on standard input. It closes when the launcher ends, however
it ends, and what the child writes there is its sign of life."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time

from loki_rl.serving.process.heartbeat import BEAT_S

# Time to stop in good order once nobody is there to see it.
GRACE_S = 3.0


def hold() -> None:
    """From now on, end this process when its standard input closes. PR_SET_PDEATHSIG would not do: it fires when the
    *thread* that started the process ends."""
    threading.Thread(target=_watch, name="tether", daemon=True).start()


def pulse(loop: asyncio.AbstractEventLoop) -> None:
    """From now on, tell the launcher while this loop turns. For processes without a mailbox, which `hold`."""
    tie = socket.socket(fileno=os.dup(0))

    def beat() -> None:
        # One that does not read is stopped, and need not hear the same thing again.
        with contextlib.suppress(OSError):
            tie.send(b".", socket.MSG_DONTWAIT)
        loop.call_later(BEAT_S, beat)

    beat()


def _watch() -> None:
    # A launcher that ended before it read our signs of life closes with a reset.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
