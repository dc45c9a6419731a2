"""Who is compared: bases and clairvoyance with the constant action that serves each best, and trained agents."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.agents.evaluate.guarded_agent import GuardedAgent
from loki_rl.agents.evaluate.rollouts import Decide, Played, always, play
from loki_rl.control.learned.agent import NumpyAgent
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for

BASES = ("exact",)
IDEAL = "clairvoyant"
PPO = "ppo"
# The base that the agents adjust, as it is: what they are worth beyond a constant is the difference to the tuned one.
BARE = "unadjusted"


class Method(Struct, frozen=True, eq=False):
    """A method. base: whose belief it plans for; action: what it always does where that is legal; agent: what decides
    instead."""

    name: str
    base: str
    action: int = NO_ADJUSTMENT
    agent: NumpyAgent | None = None

    def on(self, options: ClusterEnvOptions) -> ClusterEnvOptions:
        """The same windows with this method's base."""
        return replace(options, base=self.base)

    def rule(self) -> Decide:
        """As a controller would: an agent decides only where it is believed."""
        return always(self.action) if self.agent is None else GuardedAgent(self.agent)

    def play(self, options: ClusterEnvOptions, deep: bool = False) -> Played:
        """All windows."""
        return play(pool_for(self.on(options)), self.rule(), deep)


class Tuned(Struct, frozen=True):
    """A base with its best constant action on validation windows, and what it costs there [J]."""

    name: str
    action: int
    cost: float


def tune(options: ClusterEnvOptions, name: str, windows: int) -> Tuned:
    """The best constant action on validation windows."""
    asked = replace(options, split="validation", windows=windows)
    found = [(float(Method(name, name, action).play(asked).cost_j.mean()), action) for action in range(ACTIONS)]
    cost, action = min(found)
    return Tuned(name, action, cost)


def contenders(tuned: Sequence[Tuned], agents: Sequence[NumpyAgent]) -> list[Method]:
    """The tuned bases in their order, the base as it is, then the agents that adjust it."""
    bases = [Method(one.name, one.name, one.action) for one in tuned]
    return [*bases, Method(BARE, "exact"), *(Method(PPO, "exact", agent=agent) for agent in agents)]
