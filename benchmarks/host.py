"""Processor time and memory of this machine and of a plane's processes, from /proc. Owns the reading; judges nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Processor time of the whole machine so far, stolen time too [s]."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICKS


def own_s(pids: Iterable[int]) -> float:
    """Processor time so far of this process, of these children and of all that have ended [s]."""
    me, children = _times(os.getpid()), [_times(pid) for pid in pids]
    return sum(me) + sum(own for child in children for own in child[:2])


def process_s(pid: int) -> float:
    """Processor time so far of one process, all its threads [s]; nothing of one that has ended."""
    return sum(_times(pid)[:2])


def load_average() -> str:
    return f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"


def rss_mb(pid: int) -> float | None:
    """Resident memory, or None if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    rows = [line.split() for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(rows[0][1]) / 1024 if rows else None  # a process that has just ended has no memory


def descriptors(pid: int) -> int | None:
    """Open descriptors, or None if the process has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def _times(pid: int) -> tuple[float, float, float, float]:
    """User and system time, and those of ended children that were waited for [s]; nothing of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0, 0.0, 0.0
    user, system, waited_user, waited_system = (int(field) / TICKS for field in fields[11:15])
    return user, system, waited_user, waited_system
