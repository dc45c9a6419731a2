"""The gRPC front end over real sockets: an unmodified Triton client, outcomes, streams, an absent gateway."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs
from tritonclient.utils import InferenceServerException

from loki_rl.core.messages import Outcome
from loki_rl.serving.edge import limits, rpc_codec
from loki_rl.serving.transport.listening import listen
from loki_rl.serving.transport.wire import unpack
from tests.serving.driving import eventually
from tests.serving.edge.rpc_site import Site, message


@pytest.fixture
def client(rpc_site: Site, responder: Any) -> Iterator[triton.InferenceServerClient]:  # noqa: ARG001  (what is behind it is new)
    with triton.InferenceServerClient(rpc_site.url) as client:
        yield client


def picture(data: bytes = b"\x89PNG\xff\x00") -> list[triton.InferInput]:
    return [triton.InferInput("image", [1], "BYTES").set_data_from_numpy(np.array([data], object))]


def test_triton_client_sees_a_live_ready_ensemble(client: triton.InferenceServerClient, responder: Any) -> None:
    assert client.is_server_live()
    eventually(client.is_server_ready, "readiness is never asked again")
    assert client.is_model_ready("reading", "1")
    assert client.get_server_metadata().name == "loki-rl"
    metadata = client.get_model_metadata("reading", as_json=True)
    assert metadata["platform"] == "ensemble"
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": ["1"]}]
    config = client.get_model_config("reading").config
    assert [step.model_name for step in config.ensemble_scheduling.step] == ["reading.find", "reading.read"]
    assert client.get_model_config("reading.read").config.name == "reading.read"
    assert [row.state for row in client.get_model_repository_index().models] == ["READY"] * 3
    responder.front.ready = False
    eventually(lambda: not client.is_server_ready(), "readiness is never asked again")
    assert not client.is_model_ready("reading")


def test_triton_client_reads_a_picture(client: triton.InferenceServerClient, responder: Any) -> None:
    result = client.infer("reading", picture(), request_id="a7", timeout=250_000, parameters={"min_accuracy": 0.5})
    assert result.as_numpy("text").tolist() == [b'{"text":"line 0"}', b'{"text":"line 1"}']
    response = result.get_response()
    assert response.id == "a7"
    assert response.parameters["served"].string_param == "big/slow,big/fast"
    assert response.parameters["accuracy"].double_param == 0.75
    entered = responder.entered[0]
    assert (entered.timeout_s, entered.min_accuracy) == (0.25, 0.5)
    assert bytes(unpack(entered.payload)) == b"\x89PNG\xff\x00"


def test_triton_client_sends_pixels_compressed(client: triton.InferenceServerClient, responder: Any) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = triton.InferInput("image", [2, 4, 3], "UINT8").set_data_from_numpy(pixels)
    client.infer("reading", [tensor], compression_algorithm="gzip")
    assert (unpack(responder.entered[0].payload) == pixels).all()


def test_statistics_tell_queue_and_compute_of_each_stage(client: triton.InferenceServerClient) -> None:
    rows = client.get_inference_statistics().model_stats
    assert [row.name for row in rows] == ["reading", "reading.find", "reading.read"]
    assert (rows[2].inference_count, rows[2].inference_stats.queue.ns) == (18, 36_000_000)
    assert [row.name for row in client.get_inference_statistics("reading.find").model_stats] == ["reading.find"]


def test_a_stream_answers_each_request_and_outlives_a_wrong_one(client: triton.InferenceServerClient) -> None:
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer("writing", picture(), request_id="1")
    client.async_stream_infer("reading", picture(), request_id="2")
    (_, error), (result, none) = answers.get(timeout=60), answers.get(timeout=60)
    client.stop_stream()
    assert "model 'writing' is unknown" in str(error)
    assert none is None
    assert result.get_response().id == "2"


@pytest.mark.parametrize(
    ("outcome", "retry_s", "code", "sentence"),
    [
        (Outcome.REJECTED, 1.0, "RESOURCE_EXHAUSTED", "rejected: a reason"),
        (Outcome.REJECTED, 0.0, "UNAVAILABLE", "rejected: a reason"),
        (Outcome.DROPPED, 4.2, "UNAVAILABLE", "dropped: a reason"),
        (Outcome.FAILED, 0.0, "INTERNAL", "failed: a reason"),
    ],
)
def test_outcomes_without_a_result_are_statuses_with_a_reason(
    stub: stubs.GRPCInferenceServiceStub,
    responder: Any,
    ending: Any,
    outcome: Outcome,
    retry_s: float,
    code: str,
    sentence: str,
) -> None:
    responder.script = lambda _: ending(outcome, leaves=0, missing=1, reason="a reason", retry_s=retry_s)
    with pytest.raises(grpc.RpcError, match=sentence) as caught:
        stub.ModelInfer(message())
    assert caught.value.code().name == code
    told = dict(caught.value.trailing_metadata())
    assert json.loads(told["loki-parameters"])["outcome"] == outcome.name.lower()
    assert told.get("retry-after") == (None if outcome is Outcome.FAILED else {0.0: "1", 1.0: "1", 4.2: "5"}[retry_s])


def test_the_trace_of_a_client_reaches_a_gateway_that_traces(
    stub: stubs.GRPCInferenceServiceStub, responder: Any, traced: Any
) -> None:
    parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    stub.ModelInfer(message(), metadata=[parent])
    assert responder.entered[0].traceparent == ""
    site = Site(traced.endpoint)
    with grpc.insecure_channel(site.url) as channel:
        tracing = stubs.GRPCInferenceServiceStub(channel)
        for metadata in ([parent], [("traceparent", "0" * 600)], []):
            tracing.ModelInfer(pb.ModelInferRequest(model_name="reading"), metadata=metadata)
    assert [entered.traceparent for entered in traced.entered] == [parent[1], "", ""]
    site.close()


def test_beyond_what_there_is_room_for_calls_are_refused_and_probes_answered(
    stub: stubs.GRPCInferenceServiceStub, responder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    responder.script = lambda _: None
    monkeypatch.setattr(limits, "MAX_CALLS", 2)
    open_calls = [stub.ModelInfer.future(message()) for _ in range(2)]
    responder.wait_until(lambda: len(responder.entered) == 2)
    with pytest.raises(grpc.RpcError, match="2 inferences are under way") as caught:
        stub.ModelInfer(message())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    for call in open_calls:
        call.cancel()
    responder.wait_until(lambda: len(responder.withdrawn) == 2)


def test_a_fault_of_ours_tells_nothing_of_python(
    stub: stubs.GRPCInferenceServiceStub, responder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("cannot reshape")

    with monkeypatch.context() as patch:
        patch.setattr(rpc_codec, "read_request", fail)
        with pytest.raises(grpc.RpcError, match="the server failed on this request") as caught:
            stub.ModelInfer(message())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    stub.ModelInfer(message())
    assert len(responder.entered) == 1


def test_nobody_loads_from_outside(client: triton.InferenceServerClient) -> None:
    for verb in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="models are loaded and unloaded by the plan"):
            verb("reading")


def test_the_deadline_of_a_call_is_that_of_its_request(client: triton.InferenceServerClient, responder: Any) -> None:
    client.infer("reading", picture(), client_timeout=20.0)
    assert 10.0 < responder.entered[0].timeout_s < 21.0  # gRPC rounds


def test_a_client_that_cancels_is_cancelled(stub: stubs.GRPCInferenceServiceStub, responder: Any) -> None:
    responder.script = lambda _: None
    call = stub.ModelInfer.future(message())
    responder.wait_until(lambda: responder.entered)
    call.cancel()
    responder.wait_until(lambda: responder.withdrawn == [responder.entered[0].key])


def test_without_a_gateway_everything_but_live_is_unavailable() -> None:
    site = Site("tcp://127.0.0.1:9")
    with triton.InferenceServerClient(site.url) as client:
        assert client.is_server_live()
        with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*the gateway is not there"):
            client.infer("reading", picture())
    site.close()


def test_the_process_serves_until_sigterm_and_a_taken_port_is_exit_2(responder: Any) -> None:
    bound = listen("127.0.0.1", 0)
    port = bound.getsockname()[1]
    command = [sys.executable, "-m", "loki_rl.serving.edge.rpc", "--front", responder.endpoint, "--port", str(port)]
    bound.listen(1)
    taken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert taken.returncode == 2
    assert f"grpc: cannot listen on 127.0.0.1:{port}: " in taken.stderr
    bound.close()
    with subprocess.Popen(command) as process, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        assert stubs.GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest()).live
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
