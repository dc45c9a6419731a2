"""A plan at once: whole servers from a fractional solution. Guarantees an incumbent; proves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from loki_rl.control.formulation.configurations import Configuration


def round_up(
    configurations: Sequence[tuple[int, Configuration]], fractional: Sequence[float], servers: Sequence[int]
) -> list[int]:
    """Counts that sum to at most `servers` of each type, near the fractional ones, with a server for every task while there
    are enough. configurations: (part, configuration).

    Every task of every part first gets its most wanted configuration once; then whole servers in order of what is still
    missing.
    """
    counts, free = [0] * len(fractional), list(servers)
    pools = [c.pool for _, c in configurations]

    def give(k: int, number: int) -> None:
        counts[k] += number
        free[pools[k]] -= number

    for place in sorted({(part, c.task) for part, c in configurations}):
        mine = [k for k, (part, c) in enumerate(configurations) if (part, c.task) == place and free[c.pool]]
        if mine:
            give(max(mine, key=lambda k: (fractional[k], -k)), 1)
    for k, wanted in enumerate(fractional):
        give(k, max(0, min(floor(wanted) - counts[k], free[pools[k]])))
    while any(free):
        missing = [
            wanted - count if free[pool] else 0.0 for wanted, count, pool in zip(fractional, counts, pools, strict=True)
        ]
        worst = max(range(len(missing)), key=lambda k: (missing[k], -k))
        if missing[worst] <= 0:
            break
        give(worst, 1)
    return counts
