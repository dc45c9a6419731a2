"""The named policies of the control stack, as a plane's file asks for them. Owns the reading of their options; must not know
how a policy decides. Only a controller's node imports it."""

from __future__ import annotations

from typing import Any

import msgspec

from loki_rl.control.policies import PolicyOptions, make_policy
from loki_rl.core.pipeline import Pipeline
from loki_rl.serving.plane import PlaneError
from loki_rl.serving.planner import Policy


def named_policy(name: str, pipeline: Pipeline, options: dict[str, Any]) -> Policy:
    """options: fields of PolicyOptions. Raises PlaneError."""
    try:
        return make_policy(name, pipeline, msgspec.convert(options, PolicyOptions))
    except ValueError as error:
        raise PlaneError(f"policy '{name}': {error}") from error
