"""The gRPC front end over real sockets: an unmodified Triton client, wrong requests, an absent gateway."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs
from tritonclient.utils import InferenceServerException

from loki_rl.core.messages import Outcome
from loki_rl.serving.edge import limits, rpc, rpc_codec
from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.edge.rpc_codec import read_request
from loki_rl.serving.edge.steps import at_once
from loki_rl.serving.security.guards import Guards
from loki_rl.serving.transport.listening import listen
from loki_rl.serving.transport.protocol import Described, Tensor
from loki_rl.serving.transport.wire import unpack
from tests.serving.driving import eventually


class Site:
    """A running gRPC server in a thread of its own."""

    def __init__(self, endpoint: str, guards: Guards | None = None) -> None:
        self._guards = guards
        self._ports: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(endpoint,), daemon=True)
        self._thread.start()
        self.url = f"127.0.0.1:{self._ports.get(timeout=60)}"

    def _run(self, endpoint: str) -> None:
        self._loop.run_until_complete(rpc.serve(endpoint, "127.0.0.1", 0, self._ports.put, self._stop, guards=self._guards))
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture(scope="module")
def rpc_site(scripted: Any) -> Iterator[Site]:
    running = Site(scripted.endpoint)
    yield running
    running.close()


@pytest.fixture
def site(rpc_site: Site, responder: Any) -> Site:  # noqa: ARG001  (what is behind it is new)
    return rpc_site


@pytest.fixture
def client(site: Site) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(site.url) as client:
        yield client


@pytest.fixture
def stub(site: Site) -> Iterator[stubs.GRPCInferenceServiceStub]:
    """For what the client library would not send."""
    with grpc.insecure_channel(site.url) as channel:
        yield stubs.GRPCInferenceServiceStub(channel)


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


def message(**changes: Any) -> Any:
    """A good request as typed contents, changed."""
    request = pb.ModelInferRequest(model_name="reading")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"abc")
    request.MergeFrom(pb.ModelInferRequest(**changes))
    return request


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


def test_typed_contents_are_as_good_as_raw_ones(stub: stubs.GRPCInferenceServiceStub, responder: Any) -> None:
    stub.ModelInfer(message())
    request = pb.ModelInferRequest(model_name="reading")
    request.inputs.add(name="image", datatype="UINT8", shape=[3]).contents.uint_contents.extend([1, 2, 255])
    stub.ModelInfer(request)
    assert [bytes(unpack(entered.payload)) for entered in responder.entered] == [b"abc", b"\x01\x02\xff"]


def test_typed_contents_of_other_types_are_read_and_judged() -> None:
    described = Described(0, "reading", 0.5, 0.5, "onnx", (), Tensor("image", "FP32", (2,)), Tensor("text", "BYTES", (-1,)))
    request = pb.ModelInferRequest(model_name="reading")
    request.inputs.add(name="image", datatype="FP32", shape=[2]).contents.fp32_contents.extend([0.5, -1.0])
    read = at_once(read_request(request, described)).payload
    assert read is not None
    assert read.dtype == np.float32
    assert read.tolist() == [0.5, -1.0]
    for datatype, sentence in (("FP16", "FP16 has no typed contents; send it raw"), ("INT8", "not all values are INT8")):
        request = pb.ModelInferRequest(model_name="reading")
        request.inputs.add(name="image", datatype=datatype, shape=[1]).contents.int_contents.append(200)
        with pytest.raises(InferError, match=sentence):
            at_once(read_request(request, described))


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        ({"model_name": "writing"}, "NOT_FOUND", "model 'writing' is unknown, 'reading' is served here"),
        ({"model_version": "2"}, "NOT_FOUND", "model 'reading' has no version '2', only '1'"),
        ({"model_name": "reading.find"}, "INVALID_ARGUMENT", "takes requests only as a step of 'reading'"),
        ({"raw_input_contents": [b"a", b"b"]}, "INVALID_ARGUMENT", "2 raw contents came with 1 inputs"),
        ({"raw_input_contents": [b"abc"]}, "INVALID_ARGUMENT", "4 bytes of length"),
        ({"parameters": {"timeout": pb.InferParameter(int64_param=-1)}}, "INVALID_ARGUMENT", "timeout must be 0 to"),
        ({"parameters": {"priority": pb.InferParameter(string_param="x")}}, "INVALID_ARGUMENT", "priority must be 0 to"),
        ({"inputs": [{"name": "image"}]}, "INVALID_ARGUMENT", "stands twice"),
        ({"outputs": [{"name": "boxes"}]}, "INVALID_ARGUMENT", "output 'boxes' is unknown"),
    ],
)
def test_wrong_requests_get_a_status_and_a_sentence(
    stub: stubs.GRPCInferenceServiceStub, changes: dict[str, Any], code: str, sentence: str
) -> None:
    with pytest.raises(grpc.RpcError, match=sentence) as caught:
        stub.ModelInfer(message(**changes))
    assert caught.value.code().name == code
    stub.ModelInfer(message())


@pytest.mark.parametrize("shape", [[-1], [1 << 40], [2], [1 << 32, 0], [1] * 100_000, [1 << 31, 1 << 31, 1 << 31, 0]])
def test_a_wrong_shape_is_the_client_s_fault(stub: stubs.GRPCInferenceServiceStub, shape: list[int]) -> None:
    request = pb.ModelInferRequest(model_name="reading")
    request.inputs.add(name="image", datatype="UINT8", shape=shape).contents.uint_contents.extend([1, 2, 3])
    with pytest.raises(grpc.RpcError, match="shape") as caught:
        stub.ModelInfer(request)
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert len(caught.value.details()) < 500


def large(count: int, **changes: Any) -> Any:
    """So many typed values, as the shape says."""
    request = pb.ModelInferRequest(model_name="reading")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[count], **changes)
    tensor.contents.uint_contents.extend([7] * count)
    return request


def test_a_large_message_is_read_slice_by_slice(stub: stubs.GRPCInferenceServiceStub, responder: Any) -> None:
    stub.ModelInfer(large(1_000_000))
    assert unpack(responder.entered[0].payload).tolist() == [7] * 1_000_000


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (lambda: large(9 << 20).SerializeToString(), "typed contents are larger than 8388608 bytes; send them raw"),
        (lambda: b"\x2a\x00" * 200_000, "more than 1000 fields"),
        (lambda: b"\x2a\xe0\xa7\x12" + b"\x22\x00" * 150_000, "more than 1000 fields"),
        (lambda: b"\x0a\x80\x89\x7a" + b"a" * 2_000_000, "larger than 262144 bytes beside the data of its input"),
        (lambda: b"\x0b" * 300_000, "is not the message that this method takes"),
        (lambda: b"\x3a\xff\xff\xff\xff\x7f" + bytes(300_000), "is not the message that this method takes"),
        (lambda: message(inputs=[{"name": "image"}] * 1001).SerializeToString(), "more than 1000 of something"),
        (lambda: large(0, parameters={f"p{n}": {} for n in range(1001)}).SerializeToString(), "more than 1000 of something"),
    ],
)
def test_objects_are_built_only_of_what_is_small(
    rpc_site: Site, responder: Any, written: Callable[[], bytes], sentence: str
) -> None:
    before = responder.front.turned.copy()
    with grpc.insecure_channel(rpc_site.url) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError, match=sentence) as caught:
            call(written(), timeout=30)
    assert caught.value.code().name in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    eventually(lambda: responder.front.turned != before, "nobody counts it")


def test_large_messages_of_other_methods_are_not_read(rpc_site: Site) -> None:
    with grpc.insecure_channel(rpc_site.url) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        with pytest.raises(grpc.RpcError, match="larger than 262144 bytes") as caught:
            call(pb.ModelReadyRequest(name="a" * 300_000).SerializeToString(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_bomb_is_refused(rpc_site: Site, responder: Any) -> None:
    zeros = pb.ModelInferRequest(raw_input_contents=[bytes(100 << 20)])
    options = [("grpc.max_send_message_length", -1)]
    with (
        grpc.insecure_channel(rpc_site.url, options, grpc.Compression.Gzip) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        stubs.GRPCInferenceServiceStub(channel).ModelInfer(zeros, timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not responder.entered


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


def test_large_calls_find_no_room_beside_those_who_hoard_and_small_ones_do(
    stub: stubs.GRPCInferenceServiceStub, responder: Any, ending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    responder.script = lambda entered: None if len(entered.payload) > 1000 else ending()
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 2_000_000)
    call = stub.ModelInfer.future(large(1_500_000))
    responder.wait_until(lambda: responder.entered)
    with pytest.raises(grpc.RpcError, match="more memory than there is for them") as caught:
        stub.ModelInfer(large(1_500_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    stub.ModelInfer(message())
    call.cancel()
    responder.wait_until(lambda: responder.withdrawn)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff\x01", b"\x0a\x02\xff\xfe"])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata", "ModelStatistics"])
def test_what_is_no_message_is_said_in_a_sentence(rpc_site: Site, responder: Any, method: str, data: bytes) -> None:
    with grpc.insecure_channel(rpc_site.url) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError, match="is not the message that this method takes") as caught:
            call(data, timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not responder.entered


def test_a_stream_outlives_what_is_no_message(rpc_site: Site, responder: Any) -> None:
    requests = [b"\xff\xff\xff", message().SerializeToString()]
    with grpc.insecure_channel(rpc_site.url) as channel:
        call = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString
        )
        wrong, right = call(iter(requests), timeout=30)
    assert "is not the message that this method takes" in wrong.error_message
    assert right.infer_response.model_name == "reading"
    assert len(responder.entered) == 1


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
