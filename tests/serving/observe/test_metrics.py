"""The exposition that Prometheus scrapes, read back with its own parser."""

from __future__ import annotations

import re
from math import inf
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from loki_rl.manual.metrics import metrics_page
from loki_rl.serving.observe.metrics import exposition
from loki_rl.serving.state import PlaneState, Requests, Stage

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(state: PlaneState) -> Samples:
    families = text_string_to_metric_families(exposition(state).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples
    }


@pytest.fixture
def read(plane_state: PlaneState) -> Any:
    """The value of a sample, its labels as keywords."""
    found = samples(plane_state)
    return lambda name, **labels: found[name, tuple(sorted(labels.items()))]


def test_every_metric_is_on_the_page_of_metrics(plane_state: PlaneState) -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", metrics_page(), re.MULTILINE))
    for family in text_string_to_metric_families(exposition(plane_state).decode()):
        assert {family.name, f"{family.name}_total"} & known, family.name


def test_requests_have_ends_latencies_and_accuracy(read: Any) -> None:
    assert read("loki_requests_total", pipeline="reading", outcome="ok") == 9
    assert read("loki_requests_total", pipeline="reading", outcome="failed") == 0
    assert read("loki_request_seconds_bucket", pipeline="reading", le="0.025") == 0
    assert read("loki_request_seconds_bucket", pipeline="reading", le="0.05") == 9
    assert read("loki_request_seconds_count", pipeline="reading") == 9
    assert read("loki_request_seconds_sum", pipeline="reading") == pytest.approx(0.432)
    assert read("loki_accuracy_total", pipeline="reading") == 6.75
    assert read("loki_leaves_total", pipeline="reading", path="big/fast") == 9
    assert read("loki_ready", pipeline="reading") == 1


def test_stages_have_queue_and_compute_by_variant(read: Any) -> None:
    slow = {"pipeline": "reading", "stage": "read", "variant": "slow"}
    assert read("loki_items_total", **slow) == 18
    assert read("loki_queue_seconds_count", **slow) == 18
    assert read("loki_compute_seconds_count", **slow) == 9
    assert read("loki_batches_total", **slow, size="2") == 9
    assert read("loki_pulling_workers", **slow) == 1
    assert read("loki_lost_items_total", pipeline="reading", stage="read", outcome="dropped") == 2
    assert read("loki_queued_items", pipeline="reading", stage="read") == 3
    assert read("loki_drain_seconds", pipeline="reading", stage="read") == pytest.approx(0.045)


def test_the_plan_and_the_workers(read: Any) -> None:
    assert read("loki_plan_accuracy", pipeline="reading") == 0.75
    assert read("loki_plan_standby_rps", pipeline="reading") == 0
    assert read("loki_plan_mode", pipeline="reading", mode="hardware") == 1
    assert read("loki_plan_replicas", pipeline="reading", stage="read", variant="slow", batch="2") == 1
    assert read("loki_servers_used", pipeline="reading") == 2
    assert read("loki_servers_loading", pipeline="reading") == 1
    assert read("loki_model_loads_total", pipeline="reading", worker="1") == 2


def test_what_cannot_be_loaded_is_marked(read: Any) -> None:
    assert read("loki_variant_excluded", pipeline="reading", stage="read", variant="old", server_type="") == 1.0


def test_troubles_are_counted_by_process_and_kind(read: Any) -> None:
    assert read("loki_troubles_total", pipeline="reading", process="gateway", kind="journal") == 2


def test_drift_is_measured_beside_the_profile(read: Any) -> None:
    slow = {"pipeline": "reading", "stage": "find", "variant": "big", "server_type": ""}
    assert read("loki_drift_slowdown", **slow) == 1.4
    assert read("loki_drift_fanout", **slow, child="read") == 5.2


def test_parts_that_do_not_answer_are_named(plane_state: PlaneState) -> None:
    found = samples(replace(plane_state, control=None, stages=plane_state.stages[:1], silent=["read"]))
    answers = {dict(labels)["part"]: value for (name, labels), value in found.items() if name == "loki_answers"}
    assert answers == {"controller": 0, "stage find": 1, "stage read": 0}


def test_triton_names_for_boards_that_exist(read: Any) -> None:
    whole, stage = {"model": "reading", "version": "1"}, {"model": "reading.read", "version": "1"}
    assert read("nv_inference_request_success", **whole) == 9
    assert read("nv_inference_request_failure", **whole, reason="REJECTED") == 1
    assert read("nv_inference_count", **stage) == 18
    assert read("nv_inference_exec_count", **stage) == 9
    assert read("nv_inference_queue_duration_us", **stage) == 36_000
    assert read("nv_inference_compute_infer_duration_us", **stage) == 540_000
    assert read("nv_inference_pending_request_count", **stage) == 3


def test_a_plane_that_served_nothing_and_has_no_plan_is_no_fault() -> None:
    stage = Stage("read", 1, None, {}, {}, {})
    found = samples(PlaneState("reading", "onnx", 0.5, 1.0, 2, False, 0.0, 0, 0, Requests(), [stage], None))
    assert found["loki_drain_seconds", (("pipeline", "reading"), ("stage", "read"))] == inf
    assert found["loki_ready", (("pipeline", "reading"),)] == 0


def test_what_was_turned_away_is_told_by_reason(plane_state: PlaneState) -> None:
    found = samples(replace(plane_state, turned={"slow": 3, "head": 1}))
    for reason, count in (("slow", 3), ("head", 1)):
        assert found["loki_turned_away_total", (("pipeline", "reading"), ("reason", reason))] == count
