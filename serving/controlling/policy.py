"""The named policies of the control stack, as a plane's file asks for them. Only a controller's node imports it."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.clock import clock
from loki_rl.serving.controlling.planner import Policy
from loki_rl.serving.plane import PlaneError
from loki_rl.traces.demand import MONDAY_S


def named_policy(name: str, cluster: ClusterOptions, options: dict[str, Any]) -> Policy:
    """options: fields of PolicyOptions, but for the servers, their types and the interval, which the cluster tells, and for
    the clock, which is the plane's. Raises PlaneError."""
    known = {"servers": cluster.servers, **options}
    try:
        told = replace(
            msgspec.convert(known, PolicyOptions),
            pool=cluster.pool,
            interval_s=cluster.interval_s,
            clock_s=wall_clock_s(),
        )
        return make_policy(name, cluster.pipeline, told)
    except ValueError as error:
        raise PlaneError(f"policy '{name}': {error}") from error


def wall_clock_s() -> float:
    """What UTC is at time 0 of the plane's clock [s since Monday, 5 January 1970]."""
    return time.time() - clock() - MONDAY_S
