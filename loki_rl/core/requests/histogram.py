"""Latencies counted in buckets whose bounds grow by a constant factor, so that a percentile is right within a fixed
relative error however many there are.

The scheme is that of DDSketch (Masson et al., VLDB 2019) without its limit on buckets: a microsecond to an hour is 2,200 of
them, and only those that hold something exist.
"""

from __future__ import annotations

from math import ceil, floor, log

from msgspec import Struct

# Largest relative error of a percentile.
ERROR = 0.005
_GROWTH = (1 + ERROR) / (1 - ERROR)
_PER_LOG = 1 / log(_GROWTH)
# The value of a bucket, over its upper bound: equally far, relatively, from both bounds.
_MIDDLE = 2 / (1 + _GROWTH)
# What is shorter [s] counts as no time at all.
LEAST_S = 1e-6
_NO_TIME = floor(log(LEAST_S) * _PER_LOG) - 1


class LatencyHistogram(Struct):
    """buckets: number of a bucket -> latencies in it. Bucket b holds those above growth ** (b - 1) and up to growth ** b
    seconds."""

    buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        bucket = ceil(log(seconds) * _PER_LOG) if seconds >= LEAST_S else _NO_TIME
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    def percentile(self, share: float) -> float:
        """Linear between the two neighbours [s], each within ERROR; 0.0 of nothing."""
        position = share * (self.count - 1)
        if position < 0:
            return 0.0
        low, high = self._at(floor(position)), self._at(ceil(position))
        return low + (position - floor(position)) * (high - low)

    def _at(self, rank: int) -> float:
        """The latency at this place among all, from 0."""
        passed = 0
        for bucket, count in sorted(self.buckets.items()):
            passed += count
            if rank < passed:
                return _value(bucket)
        raise IndexError(f"there are {passed} latencies, none at {rank}")


def _value(bucket: int) -> float:
    return 0.0 if bucket == _NO_TIME else _MIDDLE * _GROWTH**bucket
