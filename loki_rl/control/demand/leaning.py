"""Leaning on the better of two beliefs about demand, by how well each has foretold it of late."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from loki_rl.control.demand.estimators import PEAK_S, Floats, together
from loki_rl.control.demand.exceedance import seen
from loki_rl.control.demand.exceedance_features import RARE

# Trust in the second belief before anything is known of either.
TRUST = 0.5
# Weights are exp(-RATE * loss), those of Bayes at 1, and so much of the trust is given back every second (fixed share,
# Herbster and Warmuth 1998): what was bad a minute ago may be good now.
RATE, SHARED = 1.0, 0.01


class Said(Struct, frozen=True, eq=False):
    """What two beliefs [2, n] said of demand above each level [n, 1/s] until the end of a second."""

    due: int
    lead_s: int
    levels: Floats
    mean_rps: float
    beliefs: Floats


class Leaning:
    """trust: weight of the second belief, 0..1."""

    def __init__(self) -> None:
        self.trust = TRUST
        self._said: list[Said] = []

    def mixed(self, first: Floats, second: Floats) -> Floats:
        """Both, as they are trusted."""
        found: Floats = (1 - self.trust) * first + self.trust * second
        return found

    def note(self, second: int, lead_s: float, levels: Floats, mean_rps: float, beliefs: Floats) -> None:
        """What the beliefs [2, n] say at the end of this second; once for each."""
        due = second + round(lead_s)
        if not self._said or self._said[-1].due < due:
            self._said.append(Said(due, round(lead_s), levels, mean_rps, beliefs))

    def settle(self, second: int, counts: Floats) -> None:
        """Judge what was said until the end of this second. counts [H]: per second, up to it."""
        while self._said and self._said[0].due <= second:
            said = self._said.pop(0)
            end = len(counts) - (second - said.due)
            came = counts[max(0, end - said.lead_s - PEAK_S + 1) : max(0, end)]
            if len(came):
                self._judge(losses(said, together(came, PEAK_S)))

    def _judge(self, lost: Floats) -> None:
        """By the losses [2] of both."""
        kept = np.array((1 - self.trust, self.trust)) * np.exp(-RATE * (lost - lost.min()))
        self.trust = (1 - SHARED) * float(kept[1] / kept.sum()) + SHARED * TRUST


def losses(said: Said, demand: Floats) -> Floats:
    """Log loss [2] of each belief after this demand [H], added up over levels as shares of the mean: what plans lose by a
    false chance, averaged over what room may cost (every price of it as likely as half or twice of it)."""
    share, likely = seen(said.levels, demand), np.clip(said.beliefs, RARE, 1 - RARE)
    each = -share * np.log(likely) - (1 - share) * np.log(1 - likely)
    found: Floats = each @ np.diff(said.levels, prepend=0.0) / said.mean_rps
    return found
