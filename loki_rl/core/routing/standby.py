"""Variants that stand by: plans have them for demand that may come, and mean nothing of what is expected for them."""

from __future__ import annotations

from loki_rl.core.mix import Mix
from loki_rl.core.routing.credits import Credits

NOBODY: frozenset[int] = frozenset()


class Standby:
    """Which variants of one task stand by: those that a plan places and gives no share, until a plan gives them one or they
    pull no more. While no variant that has a share pulls, as before the first of them is loaded, nobody stands by.

    Variants of a former plan that had a share in it serve on as ever: plans that give all they place a share know none of
    this.
    """

    def __init__(self) -> None:
        self.unmeant = NOBODY
        self._meant = NOBODY
        self._now, self._changes = NOBODY, -1

    def adopt(self, mix: Mix) -> None:
        """There is a new plan."""
        self._meant = frozenset(variant for lane in mix.shares for variant in lane)
        placed = frozenset(mix.bursts)
        self.unmeant = (self.unmeant | placed) - self._meant
        self._changes = -1

    def among(self, pullers: Credits) -> frozenset[int]:
        """Those of the variants that pull."""
        if not self.unmeant:
            return NOBODY
        if pullers.changes != self._changes:
            pulling = {variant for _, variant, _ in pullers.kinds}
            self._now = self.unmeant & pulling if self._meant & pulling else NOBODY
            self._changes = pullers.changes
        return self._now
