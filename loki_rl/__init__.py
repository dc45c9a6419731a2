"""Serve ML inference pipelines under a latency SLO when demand outgrows the hardware.

    import loki_rl

    loki_rl.plan("traffic", 300)                              # what should run
    loki_rl.simulate("traffic", "flash_crowd", "exact").plot()
    with loki_rl.Client("tcp://127.0.0.1:5556") as client:    # a plane that serves with --native
        client.infer(picture)

What stands in `__all__` keeps its meaning; each is loaded when it is first used. Whoever asks for what cannot be done gets a
`UserError`, whose message is one sentence: what, where, what to do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loki_rl.api.comparing import Comparison, compare
    from loki_rl.api.planning import Ladder, PlanResult, capacity, ladder, plan
    from loki_rl.api.running import Run, simulate
    from loki_rl.errors import UserError
    from loki_rl.files.config import PipelineFile, load_pipeline
    from loki_rl.serving.gateway.client import Client

__all__ = [
    "Client",
    "Comparison",
    "Ladder",
    "PipelineFile",
    "PlanResult",
    "Run",
    "UserError",
    "capacity",
    "compare",
    "ladder",
    "load_pipeline",
    "plan",
    "simulate",
]

_PLACES = {
    "loki_rl.api.comparing": ("Comparison", "compare"),
    "loki_rl.api.planning": ("Ladder", "PlanResult", "capacity", "ladder", "plan"),
    "loki_rl.api.running": ("Run", "simulate"),
    "loki_rl.errors": ("UserError",),
    "loki_rl.files.config": ("PipelineFile", "load_pipeline"),
    "loki_rl.serving.gateway.client": ("Client",),
}
_PLACE = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    found = globals()[name] = getattr(import_module(_PLACE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
