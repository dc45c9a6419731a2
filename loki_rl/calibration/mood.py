"""What batches that run at the same time have in common beside each other: neighbours of the plane come and go, and slow all
of them. Found from how alike batches are that begin one soon after the other."""

from __future__ import annotations

import numpy as np

from loki_rl.calibration.batches import Floats, Jobs
from loki_rl.files.calibration_file import Mood

# Each batch is compared with those that begin so many after it.
AFTER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Memories that are tried [s]: none longer than the gaps that were seen.
MEMORIES_S = np.geomspace(0.05, 20.0, 40)
# Less in common than this is nothing.
NOTHING = 0.05


def fit_mood(batches: Jobs, alone_s: Floats) -> Mood:
    """alone_s: what each would have taken alone [s]."""
    scores, gaps, products = _scores(batches, alone_s), [], []
    order = np.lexsort((batches.begin, batches.recording))
    begin, recording, scores = batches.begin[order], batches.recording[order], scores[order]
    for ahead in (one for one in AFTER if one < len(begin)):
        together = recording[ahead:] == recording[:-ahead]
        gaps.append((begin[ahead:] - begin[:-ahead])[together])
        products.append((scores[ahead:] * scores[:-ahead])[together])
    if not gaps:
        return Mood()
    return _nearest(np.concatenate(gaps), np.concatenate(products))


def _nearest(gaps: Floats, products: Floats) -> Mood:
    """Share and memory for which share * exp(-gap / memory) is nearest to the products of scores."""
    best, found = 0.0, Mood()
    longest_s = max(float(np.quantile(gaps, 0.9)), float(MEMORIES_S[0]))
    for memory_s in [tried for tried in MEMORIES_S.tolist() if tried <= longest_s]:
        fading = np.exp(-gaps / memory_s)
        square = float(fading @ fading)
        share = float(fading @ products) / square if square > 0 else 0.0
        gain = share * share * square
        if share > NOTHING and gain > best:
            best, found = gain, Mood(round(min(share, 1.0), 4), round(memory_s, 4))
    return found


def _scores(batches: Jobs, alone_s: Floats) -> Floats:
    """[N] standard normal scores of each among those of its variant and recording: that one run was slower than another is
    no mood of a moment."""
    ratio, scores = alone_s / batches.usual_s, np.zeros(len(alone_s))
    kinds = batches.recording * (int(batches.models.max()) + 1) + batches.models
    for kind in np.unique(kinds).tolist():
        mine = kinds == kind
        scores[mine] = _normal(_middles(ratio[mine]))
    return scores


def _middles(values: Floats) -> Floats:
    """The share of values below each, equal ones halved: what many have in common says nothing of when."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles: Floats = ((np.cumsum(counts) - counts / 2) / len(values))[place]
    return middles


def _normal(shares: Floats) -> Floats:
    """Quantiles of the standard normal distribution."""
    from scipy.special import ndtri  # 0.1 s to import, and only here

    found: Floats = ndtri(shares)
    return found
