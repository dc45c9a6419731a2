"""A process that a launcher started: its tie to us, its log and its end."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import site
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from loki_rl.serving.folder import private

# glibc maps and trims blocks above 128 KB anew each time; measured, that is 12-40 times the cost of copying a tensor.
# Both are needed, as whole numbers, before the process starts.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
# A worker is one core: a library that starts threads of its own takes time from the others.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# Open files that a process may have where its host does not allow fewer.
MOST_FILES = 65_536
LAST_LINES = 5
LAST_BYTES = 8192


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package. -P: a file of the working folder must not pass for a library."""
    return [sys.executable, "-P", "-m", module, *arguments]


class Child:
    """Its standard input ties it to us: when this process ends, for whatever reason, that closes and the child stops. A
    session of its own keeps Ctrl-C away from it; the launcher stops it in order. What it writes is its user's alone.
    started: when [s]. Raises OSError where it cannot be started."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.started = time.monotonic()
        self._log = log
        self._tie, tie = socket.socketpair()
        try:
            with tie, private(log, "ab") as stream:
                self._process = subprocess.Popen(
                    command,
                    stdin=tie.fileno(),
                    stdout=stream,
                    stderr=stream,
                    env=_environment(),
                    start_new_session=True,
                    umask=0o077,
                )
        except BaseException:
            self._tie.close()
            raise
        self.pid = self._process.pid
        _allow_files(self.pid)
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._process.kill()
            self._process.wait()
            self._tie.close()
            raise

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def pulsed(self) -> bool:
        """Whether it gave a sign of life since this was last asked."""
        with contextlib.suppress(OSError):
            return bool(self._tie.recv(4096, socket.MSG_DONTWAIT))
        return False

    def reap(self) -> int:
        """Its exit code, negative for a signal. It has ended."""
        code = self._process.wait()
        os.close(self.pidfd)
        self._tie.close()
        return code

    def last_words(self) -> str:
        """The end of its log, as one line."""
        try:
            with self._log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - LAST_BYTES))
                text = stream.read().decode(errors="replace")
        except OSError as error:
            return f"its log cannot be read: {error}"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-LAST_LINES:]) or "it said nothing"


def _allow_files(pid: int) -> None:
    """As many as it may ask for itself: libzmq ends a process that can take no connection any more."""
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (wanted, hard))


def wait_for_end(child: Child, timeout_s: float) -> bool:
    """Whether it ends within this time; it still has to be reaped."""
    return readable(child.pidfd, timeout_s)


def readable(handle: int, timeout_s: float) -> bool:
    """Whether it becomes so within this time."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(max(0.0, 1000 * timeout_s)))


def _environment() -> dict[str, str]:
    """Where this package is not installed but found in a folder, the child finds it there too."""
    folder = str(Path(__file__).parents[3])
    path = [] if folder in site.getsitepackages() else [folder]
    path += filter(None, [os.environ.get("PYTHONPATH")])
    return os.environ | MALLOC | THREADS | ({"PYTHONPATH": os.pathsep.join(path)} if path else {})
