"""Plans over a range of demands in one call. Owns reuse between the levels; knows no mode."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from loki_rl.control.allocator import allocate
from loki_rl.control.request import Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan


def ladder(pipeline: Pipeline, request: Request, demands: Sequence[float]) -> list[Plan]:
    """The optimal plan for every demand [1/s], in the order given; the rest of the request stays as it is."""
    return [allocate(pipeline, replace(request, demand_rps=demand)) for demand in demands]
