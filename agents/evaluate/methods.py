"""Who is compared: bases and clairvoyance with the scale and patience that serve each best, and trained agents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.guarded_agent import GuardedAgent
from loki_rl.agents.evaluate.rollouts import Played, base, play
from loki_rl.control.learned.agent import NumpyAgent
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for

# The tuning grid of every base: scale of its demand for capacity, patience of its plans. At scales below .7 a plan is for
# less than what arrives, and only a twin in which servers do better than their profile rewards that.
SCALES = (0.7, 0.75, 0.8, 0.85, 0.9, 1.0, 1.1)
PATIENCES = (1.0, 2.0, 4.0, 8.0)
BASES = ("exact", "forecast")
IDEAL = "clairvoyant"
PPO = "ppo"
# The base that the agents adjust, without them: what they are worth is the difference, not what its tuning is worth.
BARE = "unadjusted"


class Method(Struct, frozen=True, eq=False):
    """A method. base: whose demand it plans for; scale, patience: of that; agent: what adjusts it."""

    name: str
    base: str
    scale: float
    patience: float
    agent: NumpyAgent | None = None

    def on(self, options: ClusterEnvOptions) -> ClusterEnvOptions:
        """The same windows with this method's base."""
        return replace(options, base=self.base, scale=self.scale, patience=self.patience)

    def play(self, options: ClusterEnvOptions, deep: bool = False) -> Played:
        """All windows, as a controller would: an agent decides only where it is believed."""
        return play(pool_for(self.on(options)), base if self.agent is None else GuardedAgent(self.agent), deep)


class Tuned(Struct, frozen=True):
    """A base with its best scale and patience on validation windows, what it costs there [J], and how many trials that
    took."""

    name: str
    scale: float
    patience: float
    cost: float
    trials: int


def tune(options: ClusterEnvOptions, name: str, windows: int) -> Tuned:
    """The best of the grid on validation windows."""
    found: list[tuple[float, float, float]] = []
    for scale, patience in product(SCALES, PATIENCES):
        asked = replace(options, split="validation", windows=windows, base=name, scale=scale, patience=patience)
        found.append((float(play(pool_for(asked), base).cost_j.mean()), scale, patience))
    cost, scale, patience = min(found)
    return Tuned(name, scale, patience, cost, len(found))


def contenders(tuned: Sequence[Tuned], agents: Sequence[NumpyAgent]) -> list[Method]:
    """The tuned bases in their order, then the agents, each on the base that its card names, after that of the first."""
    bases = [Method(one.name, one.name, one.scale, one.patience) for one in tuned]
    bases += [Method(BARE, "forecast", agent.card.scale, agent.card.patience) for agent in agents[:1]]
    return bases + [Method(PPO, "forecast", agent.card.scale, agent.card.patience, agent) for agent in agents]
