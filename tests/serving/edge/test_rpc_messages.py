"""What gRPC messages may be: typed contents, shapes, sizes, and what is no message at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs

from loki_rl.serving.edge import limits
from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.edge.rpc_codec import read_request
from loki_rl.serving.edge.steps import at_once
from loki_rl.serving.transport.protocol import Described, Tensor
from loki_rl.serving.transport.wire import unpack
from tests.serving.driving import eventually
from tests.serving.edge.rpc_site import Site, message


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
