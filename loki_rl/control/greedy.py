"""A plan at once: whole servers from a fractional solution. Guarantees an incumbent; proves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from loki_rl.control.configurations import Configuration
from loki_rl.core.pipeline import Pipeline


def round_up(
    pipeline: Pipeline, configurations: Sequence[Configuration], fractional: list[float], servers: int
) -> list[int]:
    """Counts that sum to at most `servers`, near the fractional ones, with a server for every task while there are enough.

    Every task first gets its most wanted configuration once; then whole servers in order of what is still missing.
    """
    counts = [0] * len(fractional)
    for task in range(len(pipeline.tasks)):
        mine = [k for k, c in enumerate(configurations) if c.task == task]
        if sum(counts) < servers:
            counts[max(mine, key=lambda k: (fractional[k], -k))] = 1
    for k, wanted in enumerate(fractional):
        counts[k] += max(0, min(floor(wanted) - counts[k], servers - sum(counts)))
    while sum(counts) < servers:
        missing = [wanted - count for wanted, count in zip(fractional, counts, strict=True)]
        worst = max(range(len(missing)), key=lambda k: (missing[k], -k))
        if missing[worst] <= 0:
            break
        counts[worst] += 1
    return counts
