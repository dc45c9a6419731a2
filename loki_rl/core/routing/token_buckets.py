"""The flow from a task to its children: each variant has tokens for what the plan lets it hand on."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from loki_rl.core.mix import ELSE, NO_MIX, Mix
from loki_rl.core.requests.items import Family

EPSILON_S = 1e-6  # a wake-up must not fall short of the token it waits for
MARGIN = 1.1  # of the planned flow
FRESH_S = 2.0  # a plan that is followed by another within this time does not fill buckets again


@dataclass(slots=True, eq=False)
class Bucket:
    """Tokens of one variant for the items of one lane: its planned flow, so that accurate variants do not make more
    children than the next task can serve. rate [items/s], burst [items], time: of the last refill [s]."""

    rate: float
    burst: float
    tokens: float
    time: float

    def refill(self, now: float) -> float:
        """The tokens that there are now."""
        self.tokens = min(self.burst, self.tokens + (now - self.time) * self.rate)
        self.time = now
        return self.tokens

    def ready_at(self) -> float:
        """When one token will be there [s]."""
        return self.time + max(0.0, 1.0 - self.tokens) / self.rate + EPSILON_S if self.rate > 0 else inf


class TokenBuckets:
    """pressed: child tasks that cannot keep up; only then an empty bucket bars. unbar_at: when the first of those barred
    since it was last reset may pull again [s]."""

    def __init__(self) -> None:
        self.buckets: dict[tuple[int, int], Bucket] = {}  # (lane, variant)
        self.pressed: set[int] = set()
        self.unbar_at = inf
        self._mix = NO_MIX
        self._adopted = -inf

    def press(self, task: int, overloaded: bool) -> None:
        """A child task falls behind, or has caught up."""
        (self.pressed.add if overloaded else self.pressed.discard)(task)

    def adopt(self, mix: Mix, now: float) -> None:
        """Buckets for a new plan: a tenth above its flows, a burst of two batches. They are full, but for those that were
        filled for a plan shortly before: else plans that come each second would let a burst more through each second."""
        paths = {lane: path for path, lane in mix.lane_of.items()}
        buckets: dict[tuple[int, int], Bucket] = {}
        for lane, rates in enumerate(mix.rates):
            before = self._mix.lane_of.get(paths[lane], ELSE) if lane in paths else ELSE
            for variant, rate in rates.items():
                burst, known = mix.bursts.get(variant, 2.0), self.buckets.get((before, variant))
                tokens = burst if known is None or now - self._adopted >= FRESH_S else min(burst, known.refill(now))
                buckets[lane, variant] = Bucket(MARGIN * rate, burst, tokens, now)
        self._mix, self.buckets, self._adopted = mix, buckets, now

    def spend(self, variant: int, families: list[Family], now: float) -> None:
        """This variant takes these items."""
        if self.buckets:
            for lane, count in self._mix.lanes(families):
                bucket = self.buckets.get((lane, variant))
                if bucket is not None:
                    bucket.refill(now)
                    bucket.tokens -= count

    def bars(self, lane: int, variant: int, now: float) -> bool:
        """Whether this variant must leave this lane alone, since it is ahead of its flow and a child cannot keep up."""
        bucket = self.buckets.get((lane, variant)) if self.pressed else None
        if bucket is None:
            return False
        if bucket.refill(now) >= 1.0:
            return False
        self.unbar_at = min(self.unbar_at, bucket.ready_at())
        return True
