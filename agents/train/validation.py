"""How good an agent is on validation windows; knows no training loop."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.rollouts import Decide, Played, base, gathered, play
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for

# Cost J of a request lost beyond the base's, when agents are compared, besides the 5 that every lost one costs; and the
# share of them that is too small to be told from noise.
LOST_J, ALLOWED = 10.0, 0.0001


class Score(Struct, frozen=True):
    """gain: cost J saved against the base; gap: the share of base -> clairvoyant that this is; excess: requests lost beyond
    the base's, as a share of all; violations: share of all that is lost; cost_j: what it costs [J]."""

    gain: float
    gap: float
    excess: float
    violations: float
    cost_j: float

    @property
    def worth(self) -> float:
        """What agents are compared by: cost J saved, less a price of what is lost beyond the base's. Not above 0: the base
        is better off alone."""
        return self.gain - LOST_J * max(0.0, self.excess - ALLOWED)

    def __str__(self) -> str:
        """The agent beside its base."""
        return (
            f"it costs {self.cost_j:.4f} J and loses {100 * self.violations:.3f} % of the requests, its base "
            f"{self.cost_j + self.gain:.4f} J and {100 * (self.violations - self.excess):.3f} %"
        )


NOTHING = Score(-1e9, 0.0, 1.0, 1.0, 1e9)


class Validation:
    """The validation windows of all worlds that an agent is trained for, what the base costs on them, and what clairvoyance
    would save."""

    def __init__(self, worlds: Sequence[ClusterEnvOptions], windows: int) -> None:
        envs = [replace(env, split="validation", windows=windows) for env in worlds]
        self.pools = [pool_for(env) for env in envs]
        self.base = self._play(base)
        ideal = gathered([play(pool_for(replace(env, base="clairvoyant")), base) for env in envs])
        self.room = float((self.base.cost_j - ideal.cost_j).mean())

    def _play(self, decide: Decide) -> Played:
        return gathered([play(pool, decide) for pool in self.pools])

    def score(self, decide: Decide) -> tuple[Score, Played]:
        """Deterministic play on all windows. decide: of rows of observations alone."""
        played = self._play(decide)
        gain = float((self.base.cost_j - played.cost_j).mean())
        violations = float(played.slo_violation_ratio.mean())
        gap = gain / self.room if self.room > 0 else 0.0
        excess = violations - float(self.base.slo_violation_ratio.mean())
        return Score(gain, gap, excess, violations, float(played.cost_j.mean())), played


def curve_of(score: Score, played: Played) -> dict[str, float]:
    """The points of a validation in TensorBoard."""
    serving = {"slo_violation_ratio": score.violations}
    serving |= {name: float(getattr(played, name).mean()) for name in ("accuracy", "servers")}
    judged = {"j_minus_baseline": -score.gain, "gap_closed": score.gap, "excess_violations": score.excess}
    return {f"train/{name}": value for name, value in (judged | serving).items()}
