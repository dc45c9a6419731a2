"""The switch-aware policy: loads are begun for good reasons, and ended."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.allocator.switching import SWITCH_GAP, question_of
from loki_rl.control.allocator.transition import transition_of
from loki_rl.control.formulation.prepared import prepare
from loki_rl.control.formulation.request import Request, RequestError, Slice
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan, Server, Snapshot
from loki_rl.files.config import load_pipeline
from tests.control.instances import fleet, slices, small_pipeline
from tests.control.verify import verify

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def traffic() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "traffic.yaml").pipeline


def running(plan: Plan, servers: int) -> tuple[Server, ...]:
    """The servers as they are once a plan has been carried out."""
    serving = [(place.task, place.variant, place.batch) for place in plan.placements for _ in range(place.replicas)]
    held = [Server(number, stage, (stage[:2],)) for number, stage in enumerate(serving)]
    return (*held, *(Server(number) for number in range(len(held), servers)))


def loads(plan: Plan, before: Plan) -> int:
    """Servers that must take another model."""
    old = {(place.task, place.variant): 0 for place in (*before.placements, *plan.placements)}
    new = dict(old)
    for place in before.placements:
        old[place.task, place.variant] += place.replicas
    for place in plan.placements:
        new[place.task, place.variant] += place.replicas
    return sum(max(0, new[model] - old[model]) for model in new)


def test_fewer_loads_than_a_plain_optimum(traffic: Pipeline) -> None:
    """A little more demand is met by a few servers, where the plain optimum turns the cluster over."""
    before = allocate(traffic, Request(350.0, 20))
    plain = allocate(traffic, Request(380.0, 20))
    aware = allocate(traffic, Request(380.0, 20, current=running(before, 20), horizon_s=10.0))
    assert aware.served_fraction > 0.99
    assert loads(aware, before) < loads(plain, before)


def test_what_runs_is_kept_while_it_suffices(traffic: Pipeline) -> None:
    plan = allocate(traffic, Request(300.0, 20))
    again = allocate(traffic, Request(300.0, 20, current=running(plan, 20), horizon_s=10.0))
    assert loads(again, plan) == 0


@pytest.mark.parametrize("name", ["static", "hardware", "loki", "exact"])
def test_every_policy_answers_before_anything_was_counted(traffic: Pipeline, name: str) -> None:
    policy = make_policy(name, traffic, PolicyOptions(servers=20, initial_rps=40.0))
    snapshot = Snapshot(0.0, 10.0, (), 0.0, tuple(Server(number) for number in range(20)))
    plan = policy.decide(snapshot)
    assert plan.accuracy > 0.97
    assert plan.capacity_rps >= 40 * (1 - 1e-6)


def test_a_plan_holds_what_serves_while_its_models_load(traffic: Pipeline) -> None:
    """Regression: servers that only the time of loading needs were left out, so that a task had no server until its new
    models were warm."""
    cluster = {
        ("object_detection", "yolov5s"): 6,
        ("object_detection", "yolov5m"): 4,
        ("car_classification", "efficientnet-b0"): 2,
        ("car_classification", "efficientnet-b3"): 7,
        ("facial_recognition", "genderNet_19"): 1,
    }
    models = [model for model, count in cluster.items() for _ in range(count)]
    current = tuple(Server(number, (*model, 1), (model,)) for number, model in enumerate(models))
    slices = (Slice(159.0, 1.0), Slice(187.0, 0.2))
    plan = allocate(traffic, Request(159.0, 20, slices=slices, current=current, horizon_s=20.0))
    assert {place.task for place in plan.placements if (place.task, place.variant) in cluster} == set(traffic.index)


# -- demand that may come


def moving(traffic: Pipeline, demand_rps: float, *cut: tuple[float, float], mean_rps: float = 300.0) -> Request:
    """Of a cluster that serves 300 requests/s."""
    current = running(allocate(traffic, Request(300.0, 20)), 20)
    return Request(
        demand_rps, 20, current=current, horizon_s=20.0, mean_rps=mean_rps, slices=tuple(Slice(*one) for one in cut)
    )


def test_servers_stand_by_without_a_loss_of_accuracy(traffic: Pipeline) -> None:
    """Regression: traces of what a solver leaves anywhere brought standby variants into the mix."""
    likely, rare = (100.0, 1.0), (600.0, 0.03)
    alone = allocate(traffic, moving(traffic, 100.0, likely))
    ready = allocate(traffic, moving(traffic, 100.0, likely, (300.0, 0.1), rare))
    assert alone.standby_rps == 0
    assert ready.standby_rps == pytest.approx(600.0, rel=1e-4)
    assert ready.capacity_rps < 300
    assert ready.accuracy > alone.accuracy - 0.01
    assert ready.servers > alone.servers
    assert verify(traffic, ready, moving(traffic, 100.0)) == []
    meant = {(task, variant) for task, shares in ready.flows.items() for variant in shares}
    assert min(share for shares in ready.flows.values() for share in shares.values()) > 1e-3
    assert {(place.task, place.variant) for place in ready.placements} > meant


@pytest.mark.parametrize(("demand_rps", "mode"), [(40.0, "hardware"), (600.0, "accuracy"), (4000.0, "shed")])
def test_the_mode_is_that_of_what_is_expected(traffic: Pipeline, demand_rps: float, mode: str) -> None:
    cut = ((demand_rps, 1.0), (2 * demand_rps, 0.02))
    plan = allocate(traffic, moving(traffic, demand_rps, *cut, mean_rps=0.1 * demand_rps))
    assert (plan.mode, plan.demand_rps) == (mode, demand_rps)
    assert (plan.served_fraction == 1) == (mode != "shed")
    assert (plan.accuracy > traffic.best_accuracy - 1e-6) == (mode == "hardware")


def test_slices_without_width_or_chance_change_nothing(traffic: Pipeline) -> None:
    plain = allocate(traffic, moving(traffic, 300.0, (300.0, 0.9), (500.0, 0.2)))
    padded = ((0.0, 1.0), (300.0, 0.9), (300.0, 0.5), (500.0, 0.2), (500.0, 0.1), (800.0, 0.0))
    again = allocate(traffic, moving(traffic, 300.0, *padded))
    assert replace(again, certificate=plain.certificate) == plain
    none, whole = (allocate(traffic, moving(traffic, 300.0, *cut)) for cut in ((), ((300.0, 1.0),)))
    assert replace(whole, certificate=none.certificate) == none


def test_what_no_cluster_could_serve_is_all_alike(traffic: Pipeline) -> None:
    far, farther = (allocate(traffic, moving(traffic, 300.0, (300.0, 0.9), (rps, 0.01))) for rps in (1e5, 1e12))
    assert replace(farther, certificate=far.certificate) == far


@pytest.mark.parametrize("solver", ["search", "pulp"])
def test_demand_far_below_its_mean_is_served(traffic: Pipeline, solver: Literal["search", "pulp"]) -> None:
    """By J alone it is not worth a server for each task."""
    request = replace(moving(traffic, 1.0, (1.0, 1.0), (2.0, 0.3), mean_rps=1e4), solver=solver)
    plan = allocate(traffic, request)
    assert (plan.mode, plan.served_fraction) == ("hardware", 1.0)
    assert verify(traffic, plan, request) == []


@pytest.mark.parametrize("share", [1e-3, 1.0, 1e3])
def test_units_of_demand_do_not_matter(traffic: Pipeline, share: float) -> None:
    """However large the demand is beside the mean, what is found is proven by the own search."""
    request = moving(traffic, 300.0, (250.0, 1.0), (400.0, 0.4), (2000.0, 0.01), mean_rps=300.0 / share)
    plan = allocate(traffic, request)
    assert (plan.certificate.status, plan.certificate.solver) == ("Optimal", "search")
    assert plan.certificate.gap <= SWITCH_GAP


@pytest.mark.parametrize("seed", range(12))
def test_more_that_may_come_is_worth_more(seed: int) -> None:
    """And of what is likelier no less is served, as far as it counts."""
    rng = np.random.default_rng(seed)
    pipeline = small_pipeline(rng)
    most = capacity(pipeline, 5).capacity_rps
    if not most:
        return
    request = Request(0.5 * most, 5, current=fleet(rng, pipeline, 5), horizon_s=20.0, load_s=5.0)
    cut = (Slice(0.4 * most, 1.0), *slices(rng, 0.2 * most), Slice(2.0 * most, 0.0))
    cut = (cut[0], *(replace(one, to_rps=one.to_rps + 0.4 * most) for one in cut[1:]))
    likely = cut[-2].chance
    worth, served = list[float](), list[float]()
    for chance in (0.0, 0.25 * likely, 0.5 * likely, likely):
        asked = replace(request, slices=(*cut[:-1], replace(cut[-1], chance=chance)))
        setting = prepare(pipeline, asked)
        question = question_of(asked, setting)
        kept = transition_of(setting, "search", len(question.slices))
        worth.append(kept.ask(question, 60.0, 1e-7).objective)
        served.append(sum(kept.served) * question.demand_rps)
    assert worth == sorted(worth) or np.diff(worth).min() > -1e-6
    assert np.diff(served).min() > -1e-5 * most


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (((100.0, 1.0), (90.0, 0.5)), "slices must rise from 100.0, not to 90.0"),
        (((100.0, 0.5), (200.0, 0.6)), "the chances of slices must fall from 0.5 to 0, not to 0.6"),
        (((100.0, 1.1),), "the chances of slices must fall from 1.0 to 0, not to 1.1"),
        (((float("nan"), 1.0),), "slices must rise from 0.0, not to nan"),
        (((float("inf"), 1.0),), "slices must rise from 0.0, not to inf"),
    ],
)
def test_slices_that_make_no_sense(traffic: Pipeline, cut: tuple[tuple[float, float], ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        allocate(traffic, moving(traffic, 100.0, *cut))


def test_a_mean_must_be_above_nothing(traffic: Pipeline) -> None:
    with pytest.raises(RequestError, match="mean_rps must be above 0, not 0"):
        allocate(traffic, moving(traffic, 100.0, (100.0, 1.0), mean_rps=0.0))
