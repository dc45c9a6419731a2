"""A server under test as a tree of processes: started, waited for, its processor time read, stopped to the last of them.
Owns the tree; must not know what it serves."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from msgspec import Struct

from benchmarks.host import process_s
from benchmarks.peers.environment import PeerError

# Of an environment: every process of a tree has it from the one that was started.
MARK = "LOKI_PEERS_TREE"
START_S, STOP_S, POLL_S = 120.0, 15.0, 0.1


class Launch(Struct):
    """How a server is started. ready: path that answers 200 over HTTP once it serves."""

    name: str
    command: list[str]
    port: int
    ready: str
    log: Path
    environment: dict[str, str] = {}
    folder: Path = Path()


class Tree:
    """A started server and all that came of it."""

    def __init__(self, launch: Launch) -> None:
        self._launch, self._mark = launch, uuid4().hex
        # Sockets lie there too, and their paths must be short.
        self._temporary = TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True)
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        with launch.log.open("wb") as log:
            self._process = subprocess.Popen(
                launch.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=launch.folder,
                env={**os.environ, "TMPDIR": self._temporary.name, **launch.environment, MARK: self._mark},
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Raises PeerError if it ends, or does not serve in time."""
        limit = time.monotonic() + START_S
        while not _answers(self._launch.port, self._launch.ready):
            if self._process.poll() is not None or time.monotonic() > limit:
                raise PeerError(f"{self._launch.name} does not serve: {self._last_line()} (all of it: {self._launch.log})")
            time.sleep(POLL_S)

    def spent_s(self) -> dict[int, float]:
        """Processor time of each process so far [s]."""
        return {pid: process_s(pid) for pid in self.pids()}

    def pids(self) -> set[int]:
        """Those with the mark and all that descend from them: some write over the environment that they were given."""
        parents = dict(_parents())
        found = {pid for pid in parents if _has_mark(pid, f"{MARK}={self._mark}".encode())}
        while new := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= new
        return found

    def stop(self) -> None:
        """In order, then whatever is left by force."""
        began = {pid: _began(pid) for pid in self.pids()}
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        for pid in self.pids() | {pid for pid, when in began.items() if when == _began(pid)}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._temporary.cleanup()

    def _last_line(self) -> str:
        lines = self._launch.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@contextmanager
def serving(launch: Launch) -> Iterator[Tree]:
    """A server that is ready. Raises PeerError."""
    tree = Tree(launch)
    try:
        tree.wait_ready()
        yield tree
    finally:
        tree.stop()


def spent_between(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Processor time of the processes that are there after [s]."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _parents() -> Iterator[tuple[int, int]]:
    """Process -> parent, of all that run."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            yield int(entry.name), int(fields[1])


def _began(pid: int) -> str | None:
    """When a process was started, by which a number that was given again is told."""
    fields = _stat(pid)
    return fields[19] if fields else None


def _stat(pid: int) -> Sequence[str]:
    """Fields of /proc/PID/stat after the name; none of one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ()


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
