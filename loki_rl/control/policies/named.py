"""Policies by name. Owns the list that users choose from and what a driver may ask of a policy; decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import NamedTuple, Protocol

from loki_rl.control.formulation.request import RequestError
from loki_rl.control.policies.anticipating import Anticipating
from loki_rl.control.policies.clairvoyant import Clairvoyant
from loki_rl.control.policies.exact import Exact
from loki_rl.control.policies.hardware import Hardware
from loki_rl.control.policies.loki import Loki
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.ppo import adjusting
from loki_rl.control.policies.proteus import Proteus
from loki_rl.control.policies.static import Static
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Snapshot


class Policy(Protocol):
    """Decides what the cluster should run. Equal snapshots in equal order give equal plans."""

    def decide(self, snapshot: Snapshot) -> Plan:
        """The plan to follow from now on; never raises for a legal snapshot."""


class Kind(NamedTuple):
    """make: a policy for a pipeline. interval_s: time between its plans where the user wants no other [s]. alike: it was
    made for, or trained on, servers that are alike."""

    make: Callable[[Pipeline, PolicyOptions], Policy]
    interval_s: float = 10.0
    alike: bool = False


POLICIES = {
    "static": Kind(Static),
    "hardware": Kind(Hardware),
    "proteus": Kind(Proteus, alike=True),
    "loki": Kind(Loki),
    "exact": Kind(Exact, interval_s=1.0),
    "clairvoyant": Kind(Clairvoyant, interval_s=1.0),
    "forecast": Kind(Anticipating, interval_s=1.0),
    "learned": Kind(adjusting, interval_s=1.0, alike=True),
    "ppo": Kind(adjusting, interval_s=1.0, alike=True),
}


def make_policy(name: str, pipeline: Pipeline, options: PolicyOptions) -> Policy:
    """The policy of that name. Raises RequestError for a name that does not exist, naming the nearest that does, and for one
    that knows no types of servers where there are some."""
    kind = kind_of(name)
    if options.pool and kind.alike:
        others = ", ".join(one for one, other in POLICIES.items() if not other.alike)
        raise RequestError(f"policy '{name}' plans for servers of one type; take one of {others}")
    return kind.make(pipeline, options)


def kind_of(name: str) -> Kind:
    """What is known of the policy of that name. Raises RequestError for a name that does not exist, naming the nearest that
    does."""
    if name not in POLICIES:
        near = get_close_matches(name, POLICIES, n=1, cutoff=0.0)
        raise RequestError(f"there is no policy '{name}'; did you mean '{near[0]}'? ({', '.join(POLICIES)})")
    return POLICIES[name]
