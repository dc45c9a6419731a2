"""Who should serve what: keeps the variants of one task at the shares of the plan."""

from __future__ import annotations

from math import exp, inf

from loki_rl.core.mix import ELSE, NO_MIX, Mix
from loki_rl.core.requests.items import Family, size
from loki_rl.core.routing.queue import DeadlineQueue

MEMORY_S = 2.0  # of the rate at which items come
SPARE = 0.85  # of the planned rate; what demand leaves free below it is spent on accuracy


class DeficitRoundRobin:
    """Each item that comes is credited to the variants of its lane by their shares, and debited to the one that serves it:
    a variant owns a lane while its account there is above zero (deficit round robin, Shreedhar and Varghese, SIGCOMM'95).

    Nobody idles for it: who owns nothing that waits takes what there is. While fewer items come than planned, credits grow
    by as much, so that spare time goes to the most accurate variants.
    """

    def __init__(self) -> None:
        self.mix = NO_MIX
        self.accounts: list[dict[int, float]] = [{}]
        self.rate = 0.0  # items per second, of late
        self._single = self.mix.single
        self._planned = 0.0
        self._bursts: dict[int, float] = {}
        self._time = 0.0
        self._adopted = -inf

    def adopt(self, mix: Mix, now: float) -> None:
        """There is a new plan. Where the former one is younger than the memory, what was counted under it still counts."""
        soon = now - self._adopted < MEMORY_S
        self.accounts = self._accounts_of(mix) if soon else [dict.fromkeys(lane, 0.0) for lane in mix.shares]
        if not soon or self._single:
            self.rate, self._time = mix.rate, now
        self.mix, self._adopted = mix, now
        self._single = mix.single
        self._bursts = {variant: mix.bursts.get(variant, 2.0) for lane in mix.shares for variant in lane}
        self._planned = mix.rate

    def _accounts_of(self, mix: Mix) -> list[dict[int, float]]:
        """Of variants that had one in the lane of the same items; 0 of the others."""
        former = {lane: self.accounts[self.mix.lane_of.get(path, ELSE)] for path, lane in mix.lane_of.items()}
        former[ELSE] = self.accounts[ELSE]
        return [{variant: former[lane].get(variant, 0.0) for variant in shares} for lane, shares in enumerate(mix.shares)]

    def arrive(self, families: list[Family], now: float) -> None:
        """These came."""
        if self._single:
            return
        self.rate = self.rate * exp((self._time - now) / MEMORY_S) + size(families) / MEMORY_S
        self._time = now
        boost = max(1.0, SPARE * self._planned / self.rate) if self.rate else 1.0
        for lane, count in self.mix.lanes(families):
            account = self.accounts[lane]
            for variant, share in self.mix.shares[lane].items():
                account[variant] = min(self._bursts[variant], account[variant] + boost * share * count)

    def served(self, variant: int, families: list[Family]) -> None:
        """This variant serves them."""
        if not self._single:
            for lane, count in self.mix.lanes(families):
                account = self.accounts[lane]
                if variant in account:
                    account[variant] = max(-self._bursts[variant], account[variant] - count)

    def returned(self, variant: int, families: list[Family]) -> None:
        """It did not."""
        if not self._single:
            for lane, count in self.mix.lanes(families):
                if variant in self.accounts[lane]:
                    self.accounts[lane][variant] += count

    def own(self, variant: int, lanes: list[int]) -> list[int]:
        """Those lanes whose items are this variant's to serve."""
        return [lane for lane in lanes if self.accounts[lane].get(variant, 0.0) > 0.0]

    def owns_any(self, variant: int, queue: DeadlineQueue) -> bool:
        """Whether any item that waits is this variant's to serve."""
        for lane, account in zip(queue.lanes, self.accounts, strict=True):
            if lane and account.get(variant, 0.0) > 0.0:
                return True
        return False
