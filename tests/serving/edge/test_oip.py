"""The codec alone: what is understood, and what is said of the rest."""

from __future__ import annotations

import base64
import gzip
import struct
import zlib
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loki_rl.serving.edge import oip, oip_answers
from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.edge.steps import at_once
from loki_rl.serving.gateway.client import Inference
from loki_rl.serving.transport.protocol import Described, Refusal, Tensor

READING = Described(-1, "reading", 0.5, 0.5, "onnx", (), Tensor("image", "BYTES", (1,)), Tensor("text", "BYTES", (-1,)))
TRAFFIC = Described(
    -1, "traffic", 0.25, 0.25, "emulated", (), Tensor("input", "BYTES", (1,), True), Tensor("path", "BYTES", (-1,))
)


def body(input: dict[str, Any] | None = None, **rest: Any) -> bytes:
    """A good request, changed; None takes a field out."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [3], "data": [1, 2, 3], **(input or {})}
    tensor = {name: value for name, value in tensor.items() if value is not None}
    return msgspec.json.encode({"inputs": [tensor], **rest})


def parsed(request: bytes, length: str | None, described: Described) -> oip.InferRequest:
    return at_once(oip.parse(request, length, described))


def payload(request: bytes, length: int | None = None) -> Any:
    return parsed(request, None if length is None else str(length), READING).payload


def test_uint8_in_json_flat_nested_and_as_pixels() -> None:
    assert payload(body()).tolist() == [1, 2, 3]
    pixels = payload(body({"shape": [1, 2, 3], "data": [1, 2, 3, 4, 5, 6]}))
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert payload(body({"shape": [1, 1, 3], "data": [[[7, 8, 9]]]})).tolist() == [[[7, 8, 9]]]


def test_bytes_in_json_are_base64() -> None:
    encoded = base64.b64encode(b"\xff\x00P").decode()
    for data in ([encoded], [[encoded]]):
        assert bytes(payload(body({"datatype": "BYTES", "shape": [1], "data": data}))) == b"\xff\x00P"


def test_bytes_in_json_are_text_where_the_tensor_says_so() -> None:
    plain = {"datatype": "BYTES", "shape": [1], "data": ["wörd"], "parameters": {"base64": False}}
    assert bytes(payload(body(plain))).decode() == "wörd"


def test_a_batch_axis_of_one_is_left_out() -> None:
    pixels = body({"shape": [1, 1, 2, 3], "data": [1, 2, 3, 4, 5, 6]})
    assert payload(pixels).tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert payload(body({"shape": [1, 3], "data": [1, 2, 3]})).tolist() == [1, 2, 3]
    assert payload(body({"shape": [1, 1, 1, 1, 3], "data": [1, 2, 3]})).shape == (1, 1, 1, 1, 3)
    assert payload(body({"shape": [2, 1, 1, 3], "data": [1, 2, 3, 4, 5, 6]})).shape == (2, 1, 1, 3)


def test_binary_tensors() -> None:
    part = struct.pack("<I", 3) + b"abc"
    header = body({"datatype": "BYTES", "shape": [1], "data": None, "parameters": {"binary_data_size": 7}})
    assert bytes(payload(header + part, len(header))) == b"abc"
    header = body({"shape": [1, 2, 3], "data": None, "parameters": {"binary_data_size": 6}})
    assert payload(header + bytes(range(6)), len(header)).tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_timeout_is_in_microseconds_and_the_id_is_kept() -> None:
    request = parsed(body(id="a7", parameters={"timeout": 250_000, "priority": 1}), None, READING)
    assert (request.id, request.timeout_s, request.priority) == ("a7", 0.25, 1)
    assert parsed(body(parameters={"min_accuracy": 0.7}), None, READING).min_accuracy == 0.7
    assert parsed(body(), None, READING).timeout_s == 0.0


def test_an_optional_input_may_be_left_out() -> None:
    assert parsed(b'{"inputs":[]}', None, TRAFFIC).payload is None
    assert parsed(b"{}", None, TRAFFIC).payload is None


@pytest.mark.parametrize(
    ("rest", "binary"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "text"}]}, False),
        ({"outputs": [{"name": "text", "parameters": {"binary_data": True}}]}, True),
        (
            {
                "outputs": [{"name": "text", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
    ],
)
def test_who_asks_for_binary_output_gets_it(rest: dict[str, Any], binary: bool) -> None:
    assert parsed(body(**rest), None, READING).binary is binary


@pytest.mark.parametrize(
    ("request_body", "sentence"),
    [
        (b"", "is not inference JSON"),
        (b"{", "is not inference JSON"),
        (b"\xff{}", "is not inference JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"[" * 100_000, "is not inference JSON"),
        (b'{"inputs":[{}]}', "missing required field `name`"),
        (b"{}", "input 'image' is missing"),
        (body({"name": "picture"}), "input 'picture' is unknown, 'reading' takes 'image'"),
        (body({"datatype": "FP8"}), "input 'image' is BYTES or one of BOOL, INT8, .*, FP64, not 'FP8'"),
        (body({"datatype": "INT8", "data": [1, 2, 128]}), "INT8 data are whole numbers from -128 to 127"),
        (body({"datatype": "BOOL"}), "BOOL data are true or false"),
        (body({"datatype": "FP32", "data": [1, 2, "x"]}), "FP32 data are numbers, in rows of equal length"),
        (body({"shape": [4]}), r"shape \[4\] does not hold 3 values"),
        (body({"shape": [-1]}), "Expected `int` >= 0"),
        (body({"shape": [1 << 32], "data": []}), "Expected `int` <= 4294967295"),
        (body({"shape": [1] * 100_000}), "Expected `array` of length <= 8"),
        (body({"shape": [1 << 31, 1 << 31, 1 << 31, 0], "data": []}), "does not hold 0 values"),
        (b'{"inputs":[{"name":"image","datatype":"INT8","shape":[1],"data":["\xff"]}]}', "input 'image': |inference JSON"),
        (body({"name": "x" * 100_000}), r"input 'x+ \.\.\. x+' is unknown, 'reading' takes 'image'"),
        (body({"data": [1, 2, 256]}), "whole numbers from 0 to 255"),
        (body({"data": [1, 2, -1]}), "whole numbers from 0 to 255"),
        (body({"data": [1, 2, 0.5]}), "whole numbers from 0 to 255"),
        (body({"data": [True, False, True]}), "whole numbers from 0 to 255"),
        (body({"data": ["1", "2", "3"]}), "whole numbers from 0 to 255"),
        (body({"data": [[1], [2, 3]]}), "in rows of equal length"),
        (body({"data": [1, 2, 10**30]}), "whole numbers from 0 to 255|not inference JSON"),
        (body({"data": {"a": 1}}), "input 'image': Expected `array`"),
        (body({"data": None}), "has neither data nor binary_data_size"),
        (body({"datatype": "BYTES", "shape": [1], "data": ["ä?"]}), "are base64"),
        (body({"datatype": "BYTES", "shape": [1], "data": [7]}), "are base64"),
        (body({"datatype": "BYTES", "shape": [2], "data": ["YQ==", "YQ=="]}), "has one element"),
        (body({"datatype": "BYTES", "shape": [1], "data": []}), "has one element"),
        (body({"parameters": {"binary_data_size": 0}}), "has both data and binary_data_size"),
        (body({"data": None, "parameters": {"binary_data_size": 3}}), "binary_data_size 3 does not fit the body"),
        (body({"data": None, "parameters": {"binary_data_size": True}}), "binary_data_size True does not fit"),
        (body(parameters={"timeout": -1}), "timeout must be 0 to 3600000000 microseconds, not -1"),
        (body(parameters={"timeout": "soon"}), "not 'soon'"),
        (body(parameters={"timeout": True}), "not True"),
        (body(parameters={"min_accuracy": 1.5}), "min_accuracy must be 0 to 1, not 1.5"),
        (body(parameters={"priority": -1}), "priority must be 0 to 4294967295, not -1"),
        (body(parameters={"priority": 1.5}), "priority must be a whole number, not 1.5"),
        (body(id=7), "Expected `str`, got `int`"),
        (body(outputs=[{"name": "boxes"}]), "output 'boxes' is unknown, 'text' is the only one"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(request_body: bytes, sentence: str) -> None:
    with pytest.raises(InferError, match=sentence) as caught:
        payload(request_body)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("datatype", "data", "dtype"),
    [
        ("FP32", [0.5, -1, 3], np.float32),
        ("FP16", [0.5, -1, 1e30], np.float16),
        ("FP64", [0.1, 1e300, 2], np.float64),
        ("INT64", [-1, 0, 2**62], np.int64),
        ("INT8", [-128, 0, 127], np.int8),
        ("UINT16", [0, 1, 65535], np.uint16),
        ("BOOL", [True, False, True], np.bool_),
    ],
)
def test_numbers_keep_their_type_in_json_and_in_binary(datatype: str, data: list[float], dtype: type[np.generic]) -> None:
    with np.errstate(over="ignore"):
        wanted = np.array(data).astype(dtype)
    read = payload(body({"datatype": datatype, "data": data}))
    size = {"binary_data_size": wanted.nbytes}
    header = body({"datatype": datatype, "shape": [1, 3], "data": None, "parameters": size})
    raw = payload(header + wanted.tobytes(), len(header))
    for found, shape in ((read, (3,)), (raw, (1, 3))):
        assert (found.dtype, found.shape) == (dtype, shape)
        assert found.ravel().tolist() == wanted.tolist()


def test_binary_data_are_whole_values() -> None:
    header = body({"datatype": "FP32", "shape": [1], "data": None, "parameters": {"binary_data_size": 3}})
    with pytest.raises(InferError, match="3 bytes are no whole number of FP32 values"):
        payload(header + b"abc", len(header))


def test_an_input_that_stands_twice() -> None:
    one = {"name": "image", "datatype": "UINT8", "shape": [1], "data": [1]}
    with pytest.raises(InferError, match="stands twice"):
        payload(msgspec.json.encode({"inputs": [one, one]}))


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1" * 5000, "²"])
def test_a_wrong_header_length(length: str) -> None:
    with pytest.raises(InferError, match="is not a length within the body"):
        parsed(body(), length, READING)


@pytest.mark.parametrize("part", [b"", b"abc", struct.pack("<I", 9) + b"abc", struct.pack("<I", 1) + b"abc"])
def test_a_wrong_length_prefix(part: bytes) -> None:
    size = {"binary_data_size": len(part)}
    header = body({"datatype": "BYTES", "shape": [1], "data": None, "parameters": size})
    with pytest.raises(InferError, match="4 bytes of length"):
        payload(header + part, len(header))


def test_bytes_that_belong_to_no_input() -> None:
    header = body()
    with pytest.raises(InferError, match="2 bytes follow the last binary input"):
        payload(header + b"ab", len(header))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.none() | st.integers(0, 300).map(str))
def test_no_bytes_are_more_than_a_wrong_request(data: bytes, length: str | None) -> None:
    with pytest.raises(InferError):
        parsed(data, length, READING)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["data", "shape", "datatype", "parameters", "name"]), JSON)
def test_no_value_is_more_than_a_wrong_request(field: str, value: Any) -> None:
    with suppress(InferError):
        payload(body({field: value}))


def test_content_encodings() -> None:
    assert at_once(oip.inflate(b"abc", "", 10)) == b"abc"
    assert at_once(oip.inflate(gzip.compress(b"abc"), "gzip", 10)) == b"abc"
    assert at_once(oip.inflate(zlib.compress(b"abc"), "deflate", 10)) == b"abc"
    for data, encoding, status in (
        (gzip.compress(bytes(10_000)), "gzip", 413),
        (b"abc", "gzip", 400),
        (gzip.compress(b"abc")[:-9], "gzip", 400),
        (b"abc", "br", 415),
    ):
        with pytest.raises(InferError) as caught:
            at_once(oip.inflate(data, encoding, 100))
        assert caught.value.status == status


def inference(outputs: list[bytes]) -> Inference:
    arrays = [np.frombuffer(output, np.uint8) for output in outputs]
    return Inference(1, "ok", 0.125, 0.75, [["big", "slow"], ["big", "fast"]], 0, "", 0.375, outputs=arrays)


def test_an_answer_in_json_and_in_binary() -> None:
    texts = ['{"text":"ä"}'.encode(), b'{"text":""}']
    whole, length = oip_answers.encode(inference(texts), oip.InferRequest("a7", 0.0, None, False), READING)
    assert length is None
    answer = msgspec.json.decode(whole)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a7", "reading", "1")
    assert answer["parameters"] == {
        "outcome": "ok", "accuracy": 0.75, "latency_ms": 125.0, "slack_ms": 375.0,
        "served": "big/slow,big/fast", "missing": 0,
    }  # fmt: skip
    assert answer["outputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [2], "data": ['{"text":"ä"}', '{"text":""}']}
    ]
    whole, length = oip_answers.encode(inference(texts), oip.InferRequest("", 0.0, None, True), READING)
    assert length is not None
    (output,) = msgspec.json.decode(whole[:length])["outputs"]
    assert whole[length:] == b"".join(struct.pack("<I", len(text)) + text for text in texts)
    assert output["parameters"] == {"binary_data_size": len(whole) - length}


def test_an_emulated_answer_names_the_paths() -> None:
    whole, _ = oip_answers.encode(inference([]), oip.InferRequest("", 0.0, None, False), TRAFFIC)
    (output,) = msgspec.json.decode(whole)["outputs"]
    assert output == {"name": "path", "datatype": "BYTES", "shape": [2], "data": ["big/slow", "big/fast"]}


def ended(outcome: str, served: int, missing: int, retry_s: float = 0.0) -> Inference:
    return Inference(1, outcome, 0.1, 0.0, [["big", "slow"]] * served, missing, "a reason", retry_s=retry_s)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (ended("ok", 0, 0), None),
        (ended("late", 1, 1), None),
        (ended("late", 0, 1), (503, "late: a reason", 1)),
        (ended("dropped", 1, 1, retry_s=6.2), (503, "dropped: a reason", 7)),
        (ended("failed", 0, 1, retry_s=1.5), (503, "failed: a reason", 2)),
        (ended("rejected", 0, 0, retry_s=0.4), (429, "rejected: a reason", 1)),
        (ended("rejected", 0, 0), (503, "rejected: a reason", 1)),
        (ended("failed", 0, 1), (500, "failed: a reason", 0)),
    ],
)
def test_the_verdict_on_an_outcome(answer: Inference, verdict: tuple[int, str, int] | None) -> None:
    assert oip_answers.verdict(answer) == (None if verdict is None else oip_answers.Verdict(*verdict))


def test_what_the_client_is_to_blame_for_is_a_bad_request() -> None:
    rejected = ended("rejected", 0, 0)
    rejected.refusal = Refusal("", client_fault=True)
    assert oip_answers.verdict(rejected) == oip_answers.Verdict(400, "rejected: a reason", 0)
    assert "stage" not in oip_answers.parameters(rejected), "it reached none"


def test_a_refusal_is_told_in_parameters_too() -> None:
    dropped = ended("dropped", 0, 1)
    dropped.refusal = Refusal("read", 0.012, "fast")
    told = oip_answers.parameters(dropped)
    assert (told["stage"], told["late_ms"], told["fitting"]) == ("read", 12.0, "fast")


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("", ""), ("gzip", "gzip"), ("deflate, br", "deflate"), ("br, gzip;q=0.5", "gzip"), ("gzip;q=0", ""), ("*", "")],
)
def test_an_answer_is_compressed_as_the_client_accepts_it(accepted: str, encoding: str) -> None:
    body = b"abc" * 1000
    packed, name = oip_answers.compress(body, accepted)
    assert name == encoding
    assert at_once(oip.inflate(packed, name, len(body))) == body


def test_a_short_answer_is_not_compressed() -> None:
    assert oip_answers.compress(b"abc", "gzip") == (b"abc", "")
