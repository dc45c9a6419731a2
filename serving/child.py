"""A process that a launcher started: its tether, its log and its end. Owns how it is started and stopped; must not know what
it does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from loki_rl.serving.folder import private

# glibc maps and trims blocks above 128 KB anew each time; measured, that is 12-40 times the cost of copying a tensor.
# Both are needed, as whole numbers, before the process starts.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
# A worker is one core: a library that starts threads of its own takes time from the others.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

LAST_LINES = 5


class Child:
    """Its standard input is the tether: when this process ends, for whatever reason, the pipe closes and the child stops.
    A session of its own keeps Ctrl-C away from it; the launcher stops it in order. What it writes is its user's alone."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self._log = log
        with private(log, "ab") as stream:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env=os.environ | MALLOC | THREADS,
                start_new_session=True,
                umask=0o077,
            )
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def reap(self) -> int:
        """Its exit code, negative for a signal. It has ended."""
        code = self._process.wait()
        os.close(self.pidfd)
        assert self._process.stdin is not None
        self._process.stdin.close()
        return code

    def last_words(self) -> str:
        """The end of its log, as one line."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-LAST_LINES:]) or "it said nothing"
