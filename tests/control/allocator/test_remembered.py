"""What is remembered: a plan depends on the question, not on what was asked before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.allocator.implicit_model import ImplicitModel, problem_of
from loki_rl.control.formulation.prepared import prepare
from loki_rl.control.formulation.request import Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Certificate, Plan
from loki_rl.files.config import load_pipeline
from tests.control.instances import requests, small_pipeline

PIPELINES = Path(__file__).parents[3] / "pipelines"


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(PIPELINES / "traffic.yaml").pipeline


def timeless(plan: Plan) -> Plan:
    certificate = plan.certificate
    return replace(plan, certificate=Certificate(certificate.objective, certificate.bound, certificate.gap))


def afresh(pipeline: Pipeline, request: Request) -> Plan:
    """In a thread of its own, which keeps nothing."""
    with ThreadPoolExecutor(1) as pool:
        return timeless(pool.submit(allocate, pipeline, request).result())


def test_order_of_questions_does_not_matter(traffic: Pipeline) -> None:
    asked = [Request(demand, 20, min_accuracy=floor) for demand in (60.0, 400.0, 900.0, 2600.0) for floor in (0.0, 0.7)]
    fresh = [afresh(traffic, request) for request in asked]
    for seed in range(3):
        for i in np.random.default_rng(seed).permutation(len(asked)):
            assert timeless(allocate(traffic, asked[i])) == fresh[i], asked[i]


@pytest.mark.parametrize("seed", range(6))
def test_order_of_questions_does_not_matter_on_small_pipelines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pipeline = small_pipeline(rng)
    asked = list(requests(rng, pipeline, 6))
    fresh = [afresh(pipeline, request) for request in asked]
    for i in rng.permutation(len(asked)):
        assert timeless(allocate(pipeline, asked[i])) == fresh[i], asked[i]


def test_what_is_too_much_is_remembered_for_that_size_only(traffic: Pipeline) -> None:
    setting = prepare(traffic, Request(1.0, 20))
    kept = problem_of((setting.best_network,), (1.0,), "search")
    assert kept.ask("least price", (400.0,), (20,)).outcome == "infeasible"
    with patch.object(ImplicitModel, "answer", None):
        assert kept.ask("least price", (401.0,), (20,)).outcome == "infeasible"
    assert kept.ask("least price", (100.0,), (20,)).found
    assert kept.ask("least price", (401.0,), (200,)).found
