"""A trained agent's file at work in a live plane: without torch, and its fallbacks in the curves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.agent import ILLEGAL, METADATA, card_text
from loki_rl.control.learned.observation import ACTIONS, MULTIPLIERS, NO_ADJUSTMENT, OBSERVATION
from loki_rl.files.pool_file import Pool
from loki_rl.runs.live import ServeOptions, prepared, serve_until_stopped, shadows_announced
from loki_rl.runs.options import RunOptions
from loki_rl.runs.replays import replay_trace
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import cluster_of, run_twin
from loki_rl.runs.tensorboard.curves import curves
from loki_rl.serving.controlling.policy import named_policy
from loki_rl.serving.plane import PlaneError
from tests.control.cards import always, made_up
from tests.serving.driving import held_port

ALWAYS = 6
CARD = made_up("small")


@pytest.fixture(autouse=True, scope="module")
def handlers() -> Iterator[None]:
    """As they were before `serve` took the signals for itself."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "agent.npz"
    always(ALWAYS, CARD).save(path)
    return path


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, written without torch."""
    onnx = pytest.importorskip("onnx", reason="the interchange file needs onnx")
    helper, kinds, agent = onnx.helper, onnx.TensorProto, always(ALWAYS, CARD)
    parts = (*agent.weights, *agent.biases)
    weight, bias = (onnx.numpy_helper.from_array(part, name) for part, name in zip(parts, ("w", "b"), strict=True))
    illegal = onnx.numpy_helper.from_array(np.array(ILLEGAL, np.float32), "illegal")
    nodes = [
        helper.make_node("Gemm", ["observation", "w", "b"], ["raw"]),
        helper.make_node("Where", ["mask", "raw", "illegal"], ["logits"]),
    ]
    given = [
        helper.make_tensor_value_info("observation", kinds.FLOAT, ["batch", OBSERVATION]),
        helper.make_tensor_value_info("mask", kinds.BOOL, ["batch", ACTIONS]),
    ]
    made = [helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", ACTIONS])]
    graph = helper.make_graph(nodes, "agent", given, made, [weight, bias, illegal])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA: card_text(CARD)})
    path = tmp_path_factory.mktemp("agents") / "agent.onnx"
    onnx.save(model, str(path))
    return path


def served(small: Path, crowd: Path, model: Path) -> RunResult:
    """A plane under the policy `ppo` while a client replays a trace against it."""
    address = f"tcp://127.0.0.1:{held_port()}"
    run = RunOptions(str(small), policy="ppo", initial_rps=30.0, interval_s=1.0, model=str(model))
    options = ServeOptions(native=address, http_port=held_port(), drain_s=0.0)
    return while_served(run, options, lambda: replay_trace(address, RunOptions(str(small), str(crowd), to_s=2.0)))


def while_served(run: RunOptions, options: ServeOptions, work: Callable[[], RunResult]) -> RunResult:
    working: list[Future[RunResult]] = []
    with ThreadPoolExecutor(1) as pool:

        def announce(text: str) -> None:  # noqa: ARG001
            working.append(pool.submit(work))
            working[0].add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGTERM))

        result = serve_until_stopped(run, options, None, announce)
        working[0].result()
        return result


def test_an_agent_steers_a_plane_from_its_onnx_file(small: Path, crowd: Path, onnx_file: Path) -> None:
    result = served(small, crowd, onnx_file)
    result.tally.validate()
    asked = [record.plan.adjustment for record in result.tally.plans]
    assert any(a is not None and not a.fallback and a.factor == pytest.approx(MULTIPLIERS[ALWAYS]) for a in asked)


def test_the_command_that_repeats_a_shadow_names_its_agent(small: Path, npz: Path, tmp_path: Path) -> None:
    served = prepared(RunOptions(str(small), policy="loki", model=str(npz)), ServeOptions(shadow="ppo"))
    said = shadows_announced(served, tmp_path / "flight", tmp_path)
    assert said.endswith(f"loki-rl simulate --journal {tmp_path / 'flight'} --policy ppo --model {npz}")


def test_fallbacks_are_in_the_curves(small: Path, crowd: Path, tmp_path: Path) -> None:
    """Of an agent that is never believed every plan is the one without it, and says so."""
    always(ALWAYS, made_up("small", low=-0.01, high=0.0)).save(tmp_path / "agent.npz")
    result = run_twin(RunOptions(str(small), str(crowd), "ppo", model=str(tmp_path / "agent.npz")))
    curve = curves(result.tally, result.duration_s)
    assert {point["policy/fallback"] for point in curve if "policy/fallback" in point} == {1.0}
    assert {point["policy/headroom"] for point in curve if "policy/headroom" in point} == {0.0}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"interval_s": 2.0}, "trained for a plan every 1 s, not every 2 s; take --interval-s 1"),
        ({"pipeline": "traffic"}, "trained for pipeline 'small', not 'traffic'; train one"),
    ],
)
def test_an_agent_for_something_else_is_refused(
    run: dict[str, Any], message: str, small: Path, crowd: Path, npz: Path
) -> None:
    options = replace(RunOptions(str(small), str(crowd), "ppo", interval_s=1.0, model=str(npz)), **run)
    with pytest.raises(RequestError, match=message):
        run_twin(options)
    with pytest.raises(RequestError, match=message):
        serve_until_stopped(options, ServeOptions(engine="emulated", http_port=held_port()), None, print)
    with pytest.raises(PlaneError, match=message):
        named_policy("ppo", cluster_of(options, options.file.pipeline, 4, Pool()), {"model": str(npz)})


@pytest.mark.parametrize("kind", ["npz", "onnx_file"])
def test_a_decision_needs_no_torch(kind: str, small: Path, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    script = (
        "import sys\n"
        "from loki_rl.files.config import load_pipeline\n"
        "from loki_rl.control.policies.named import make_policy\n"
        "from loki_rl.control.policies.options import PolicyOptions\n"
        "from loki_rl.core.plan import Snapshot\n"
        f"pipeline = load_pipeline({str(small)!r}).pipeline\n"
        f"policy = make_policy('ppo', pipeline, PolicyOptions(servers=4, model={str(model)!r}, interval_s=1.0))\n"
        "plan = policy.decide(Snapshot(20.0, 10.0, (30,) * 20, 0.0, ()))\n"
        "print(plan.adjustment.factor, plan.adjustment.fallback, 'torch' in sys.modules, 'gymnasium' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(float(MULTIPLIERS[ALWAYS])), "False", "False", "False"]
    assert NO_ADJUSTMENT != ALWAYS
