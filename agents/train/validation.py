"""How good an agent is on validation windows; knows no training loop."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.methods import IDEAL, tune
from loki_rl.agents.evaluate.rollouts import Decide, Played, base, play
from loki_rl.env.fluid.batch import Pool
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for


class Score(Struct, frozen=True):
    """gain: cost J saved against the base; gap: the share of base -> clairvoyant that this is; excess: requests lost beyond
    the base's, as a share of all; violations: share of all that is lost; cost_j: what it costs [J]."""

    gain: float
    gap: float
    excess: float
    violations: float
    cost_j: float

    def __str__(self) -> str:
        """The agent beside its base."""
        return (
            f"it costs {self.cost_j:.4f} J and loses {100 * self.violations:.3f} % of the requests, its base "
            f"{self.cost_j + self.gain:.4f} J and {100 * (self.violations - self.excess):.3f} %"
        )


NOTHING = Score(-1e9, 0.0, 1.0, 1.0, 1e9)


class Validation:
    """The validation windows, what the base costs on them, and what clairvoyance would save."""

    def __init__(self, training: ClusterEnvOptions, windows: int) -> None:
        env = replace(training, split="validation", windows=windows)
        self.pool: Pool = pool_for(env)
        self.base = play(self.pool, base)
        self.room = float(self.base.cost_j.mean()) - tune(env, IDEAL, windows).cost

    def score(self, decide: Decide) -> tuple[Score, Played]:
        """Deterministic play on all windows."""
        played = play(self.pool, decide)
        gain = float((self.base.cost_j - played.cost_j).mean())
        violations = float(played.slo_violation_ratio.mean())
        gap = gain / self.room if self.room > 0 else 0.0
        excess = violations - float(self.base.slo_violation_ratio.mean())
        return Score(gain, gap, excess, violations, float(played.cost_j.mean())), played
