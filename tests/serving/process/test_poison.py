"""A request whose model never returns, and some that end their worker's process, beside innocent ones: the poisoned requests
fail, everybody else is served, and the plane repairs itself."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.serving.gateway.client import Client, Inference
from loki_rl.serving.process.launch import LocalPlane
from tests.serving.driving import eventually
from tests.serving.profiling.test_own_models import ROOT
from tests.serving.profiling.test_own_models import site as site  # a fixture

HANG, ABORT, INNOCENT = 1, 2, 200
ADAPTER = """import os, time
from classify import Classify
class Poisoned(Classify):
    def prepare(self, payload):
        if payload.ndim == 3 and payload[0, 0, 0] == 1:
            time.sleep(1e6)
        if payload.ndim == 3 and payload[0, 0, 0] == 2:
            os.abort()
        return super().prepare(payload)
"""
SLO_S = 20.0


def picture(shade: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((8, 8, 3), shade, np.uint8)


@pytest.fixture
def poisoned(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalPlane:
    (tmp_path / "poisoned.py").write_text(ADAPTER)
    file = tmp_path / "poisoned.yaml"
    file.write_text((site / "tone.yaml").read_text().replace("classify:Classify", "poisoned:Poisoned"))
    (tmp_path / "models").symlink_to(site / "models")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{site}:{ROOT}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(site))
    variant = Variant("small", 0.75, {1: Latency(0.01, 0.01, 0.01), 4: Latency(0.02, 0.02, 0.02)}, load_s=0.2)
    pipeline = Pipeline("tone", SLO_S, (Task("classify", (variant,), entry=1.0),), {"classify": 1.0})
    return LocalPlane(
        ClusterOptions(pipeline, 3),
        engine="onnx",
        pipeline_file=str(file),
        policy="static",
        policy_options={"servers": 3, "demand_rps": 1.0},
    )


def test_poisoned_requests_fail_and_nobody_else_does(poisoned: LocalPlane) -> None:
    with poisoned as plane, Client(plane.front) as client:
        client.wait_ready(30.0)
        ends: dict[int, str] = {}
        sent: dict[int, int] = {}

        def settled() -> bool:
            for answer in client.poll(0.05):
                assert isinstance(answer, Inference)
                assert answer.id not in ends, "answered twice"
                ends[answer.id] = answer.outcome
            number = client.submit(picture(INNOCENT))
            sent[number] = INNOCENT
            return all(number in ends for number, shade in sent.items() if shade != INNOCENT)

        for shade in (HANG, ABORT, ABORT):
            sent[client.submit(picture(shade))] = shade
        eventually(settled, "a poisoned request has no end")
        eventually(lambda: settled() and len(plane.pids) == 6, "processes are missing")
        while len(ends) < len(sent):
            for answer in client.poll(SLO_S):
                assert isinstance(answer, Inference)
                ends[answer.id] = answer.outcome
        outcomes = {shade: {ends[number] for number in sent if sent[number] == shade} for shade in (HANG, ABORT, INNOCENT)}
        assert outcomes == {HANG: {"failed"}, ABORT: {"failed"}, INNOCENT: {"ok"}}
        ledger = client.ledger().tally
        assert sum(sum(second.outcomes) for second in ledger.seconds.values()) == ledger.arrivals == len(sent)


def test_a_cut_off_picture_is_the_fault_of_whoever_sent_it(poisoned: LocalPlane) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole, "JPEG")
    with poisoned as plane, Client(plane.front) as client:
        client.wait_ready(30.0)
        answer = client.infer(whole.getvalue()[: len(whole.getvalue()) // 2])
        assert answer.outcome == "failed"
        assert answer.refusal is not None
        assert answer.refusal.client_fault
        assert "cannot be decoded" in answer.reason
