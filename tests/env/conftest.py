"""Small environments that all these tests share, made once."""

from __future__ import annotations

import pytest

import loki_rl.env
from loki_rl.control.fast.table import Table, build_table
from loki_rl.core.pipeline import Pipeline
from loki_rl.env.gym.cluster_options import one_task

loki_rl.env.register_envs()
SMALL = {"intervals": 6, "windows": 3}


@pytest.fixture(scope="session")
def small() -> dict[str, object]:
    """Options of a short episode."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    return one_task()


@pytest.fixture(scope="session")
def table(pipeline: Pipeline) -> Table:
    return build_table(pipeline, 20)
