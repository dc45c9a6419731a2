"""What other programs take of this host's cores while something is measured."""

from __future__ import annotations

import os
from pathlib import Path

STAT = Path("/proc/stat")
# Of the columns user, nice, system, idle, iowait, irq, softirq, steal: all but the two idle ones.
_BUSY = (0, 1, 2, 5, 6, 7)


class HostLoad:
    """Counts from its making on. Processes started by this one count as its own once they have ended."""

    def __init__(self) -> None:
        self._begin = _account()

    def share(self) -> float:
        """Share of all cores' time that others took since then, 0..1; 0 where the system does not tell."""
        own, busy, passed = (now - then for now, then in zip(_account(), self._begin, strict=True))
        return min(1.0, max(0.0, busy - own) / passed) if passed > 0 else 0.0


def _account() -> tuple[float, float, float]:
    """CPU time of this process and its ended children, of all processes, and of all cores [s], since some time ago."""
    times = os.times()
    if not STAT.is_file():
        return sum(times[:4]), 0.0, 0.0
    columns = [int(word) / os.sysconf("SC_CLK_TCK") for word in STAT.read_text().splitlines()[0].split()[1:9]]
    return sum(times[:4]), sum(columns[place] for place in _BUSY), sum(columns)
