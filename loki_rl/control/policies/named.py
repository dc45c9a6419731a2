"""Policies by name. Owns the list that users choose from and what a driver may ask of a policy; decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Protocol

from loki_rl.control.formulation.request import RequestError
from loki_rl.control.policies.clairvoyant import Clairvoyant
from loki_rl.control.policies.exact import Exact
from loki_rl.control.policies.forecast import Forecasting
from loki_rl.control.policies.hardware import Hardware
from loki_rl.control.policies.loki import Loki
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.ppo import ppo
from loki_rl.control.policies.proteus import Proteus
from loki_rl.control.policies.static import Static
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Policy(Protocol):
    """Decides what the cluster should run. Equal snapshots in equal order give equal plans."""

    def decide(self, snapshot: Snapshot) -> Plan:
        """The plan to follow from now on; never raises for a legal snapshot."""


POLICIES: dict[str, Callable[[Pipeline, PolicyOptions], Policy]] = {
    "static": Static,
    "hardware": Hardware,
    "proteus": Proteus,
    "loki": Loki,
    "exact": Exact,
    "clairvoyant": Clairvoyant,
    "forecast": Forecasting,
    "ppo": ppo,
}


# Made for, or trained on, servers that are alike.
ALIKE = {"proteus", "ppo"}


def make_policy(name: str, pipeline: Pipeline, options: PolicyOptions) -> Policy:
    """The policy of that name. Raises RequestError for a name that does not exist, naming the nearest that does, and for one
    that knows no types of servers where there are some."""
    if name not in POLICIES:
        near = get_close_matches(name, POLICIES, n=1, cutoff=0.0)
        raise RequestError(f"there is no policy '{name}'; did you mean '{near[0]}'? ({', '.join(POLICIES)})")
    if options.pool and name in ALIKE:
        others = ", ".join(one for one in POLICIES if one not in ALIKE)
        raise RequestError(f"policy '{name}' plans for servers of one type; take one of {others}")
    return POLICIES[name](pipeline, options)
