"""The HTTP front end over real sockets: an unmodified Triton client, plain requests, wrong requests, an absent gateway."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from loki_rl.core.messages import Outcome
from loki_rl.serving.transport.wire import unpack
from tests.serving.driving import eventually
from tests.serving.site import INFER, INPUT, Site

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def client(site: Site) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(site.url, concurrency=4)
    yield client
    client.close()


def picture(binary: bool) -> list[triton.InferInput]:
    tensor = triton.InferInput("image", [1], "BYTES")
    data = b"\x89PNG\xff\x00" if binary else base64.b64encode(b"\x89PNG\xff\x00")
    tensor.set_data_from_numpy(np.array([data], object), binary_data=binary)
    return [tensor]


# -- a client nobody wrote for us ---------------------------------------------------------------------------------------


def test_triton_client_sees_a_live_ready_model(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("reading")
    assert client.is_model_ready("reading", "1")
    assert not client.is_model_ready("writing")
    assert client.get_server_metadata()["name"] == "loki-rl"
    assert client.get_model_metadata("reading") == {
        "name": "reading",
        "versions": ["1"],
        "platform": "ensemble",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}],
        "outputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_triton_client_reads_a_picture(
    client: triton.InferenceServerClient, responder: Any, binary_in: bool, binary_out: bool
) -> None:
    wanted = [triton.InferRequestedOutput("text", binary_data=binary_out)]
    result = client.infer("reading", picture(binary_in), outputs=wanted, request_id="a7", timeout=250_000)
    answer = result.get_response()
    assert answer["id"] == "a7"
    assert answer["parameters"]["served"] == "big/slow,big/fast"
    assert [bytes(text, "utf-8") if isinstance(text, str) else text for text in result.as_numpy("text")] == [
        b'{"text":"line 0"}',
        b'{"text":"line 1"}',
    ]
    assert responder.entered[0].timeout_s == 0.25
    assert bytes(unpack(responder.entered[0].payload)) == b"\x89PNG\xff\x00"


def test_triton_client_sends_pixels_compressed_to_a_version(client: triton.InferenceServerClient, responder: Any) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = triton.InferInput("image", [2, 4, 3], "UINT8").set_data_from_numpy(pixels)
    for algorithm in ("gzip", "deflate"):
        client.infer("reading", [tensor], model_version="1", request_compression_algorithm=algorithm)
    assert all((unpack(entered.payload) == pixels).all() for entered in responder.entered)


def test_triton_client_gets_errors_as_errors(client: triton.InferenceServerClient, responder: Any, ending: Any) -> None:
    responder.script = lambda _: ending(Outcome.REJECTED, leaves=0, reason="the cluster is full")
    with pytest.raises(InferenceServerException, match=r"\[503\] rejected: the cluster is full"):
        client.infer("reading", picture(True))
    with pytest.raises(InferenceServerException, match=r"\[404\] model 'writing' is unknown, 'reading' is served here"):
        client.infer("writing", picture(True))


def test_an_answer_without_leaves_is_an_empty_tensor(
    client: triton.InferenceServerClient, responder: Any, ending: Any
) -> None:
    responder.script = lambda _: ending(leaves=0)
    for binary in (True, False):
        wanted = [triton.InferRequestedOutput("text", binary_data=binary)]
        assert client.infer("reading", picture(True), outputs=wanted).as_numpy("text").size == 0


def test_an_emulated_pipeline_needs_no_input(emulated: Any) -> None:
    site = Site(emulated.endpoint)
    status, answer, _ = site.ask("POST", INFER, b'{"id":"x","inputs":[]}')
    site.close()
    assert status == 200
    assert answer["outputs"][0]["data"] == ["big/slow", "big/fast"]


# -- what a standard tool asks before and after ---------------------------------------------------------------------------


def test_a_pipeline_is_an_ensemble_of_its_stages(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("reading")
    assert (config["platform"], config["max_batch_size"]) == ("ensemble", 0)
    assert config["ensemble_scheduling"]["step"] == [
        {
            "model_name": "reading.find",
            "model_version": -1,
            "input_map": {"input": "image"},
            "output_map": {"output": "find"},
        },
        {
            "model_name": "reading.read",
            "model_version": -1,
            "input_map": {"input": "find"},
            "output_map": {"output": "text"},
        },
    ]
    stage = client.get_model_config("reading.read")
    assert (stage["name"], stage["parameters"]["variants"]) == ("reading.read", {"string_value": "fast,slow"})
    assert client.get_model_metadata("reading.read")["platform"] == "loki_rl_stage"
    assert client.is_model_ready("reading.find")
    with pytest.raises(InferenceServerException, match="takes requests only as a step of 'reading'"):
        client.infer("reading.find", picture(True))


def test_statistics_tell_queue_and_compute_of_each_stage(client: triton.InferenceServerClient) -> None:
    whole, find, read = client.get_inference_statistics()["model_stats"]
    assert [row["name"] for row in (whole, find, read)] == ["reading", "reading.find", "reading.read"]
    assert (whole["inference_count"], whole["inference_stats"]["fail"]["count"]) == (9, 1)
    assert whole["inference_stats"]["success"] == {"count": 9, "ns": 432_000_000}
    assert (read["inference_count"], read["execution_count"]) == (18, 9)
    assert read["inference_stats"]["queue"] == {"count": 18, "ns": 36_000_000}
    assert read["inference_stats"]["compute_infer"] == {"count": 18, "ns": 540_000_000}
    (batch,) = read["batch_stats"]
    assert (batch["batch_size"], batch["compute_infer"]) == (2, {"count": 9, "ns": 270_000_000})
    assert client.get_inference_statistics("reading.find")["model_stats"] == [find]


def test_the_index_follows_readiness_and_nobody_loads_from_outside(
    client: triton.InferenceServerClient, responder: Any
) -> None:
    names = ["reading", "reading.find", "reading.read"]
    assert [(row["name"], row["state"]) for row in client.get_model_repository_index()] == [(n, "READY") for n in names]
    responder.front.ready = False
    eventually(
        lambda: {row["state"] for row in client.get_model_repository_index()} == {"UNAVAILABLE"}, "the index stays as it was"
    )
    for verb in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="models are loaded and unloaded by the plan"):
            verb("reading")


def test_the_index_of_what_is_ready_is_empty_before(site: Site, responder: Any) -> None:
    responder.front.ready = False
    ready = b'{"ready":true}'
    eventually(lambda: site.ask("POST", "/v2/repository/index", ready)[:2] == (200, []), "the index stays as it was")
    assert site.ask("POST", "/v2/repository/index", b'{"ready":1}')[0] == 400


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_long_answer_is_compressed_on_request(
    client: triton.InferenceServerClient, responder: Any, ending: Any, algorithm: str, binary: bool
) -> None:
    responder.script = lambda _: ending(leaves=100)
    wanted = [triton.InferRequestedOutput("text", binary_data=binary)]
    result = client.infer("reading", picture(True), outputs=wanted, response_compression_algorithm=algorithm)
    assert len(result.as_numpy("text")) == 100


def test_an_accuracy_floor_and_a_priority_reach_the_gateway(client: triton.InferenceServerClient, responder: Any) -> None:
    client.infer("reading", picture(True), priority=2, parameters={"min_accuracy": 0.75})
    assert (responder.entered[0].min_accuracy, responder.entered[0].priority) == (0.75, 2)


def test_the_trace_of_a_client_reaches_a_gateway_that_traces(site: Site, responder: Any, traced: Any) -> None:
    headers = http.client.HTTPMessage()
    headers["TraceParent"] = PARENT
    assert site.ask("POST", INFER, json.dumps({"inputs": [INPUT]}).encode(), headers)[0] == 200
    assert responder.entered[0].traceparent == ""
    tracing = Site(traced.endpoint)
    assert tracing.ask("POST", INFER, b'{"inputs": []}', headers)[0] == 200
    headers["TraceParent"] = PARENT
    assert tracing.ask("POST", INFER, b'{"inputs": []}', headers)[0] == 200
    assert tracing.ask("POST", INFER, b'{"inputs": []}', {"traceparent": "0" * 600})[0] == 200
    assert [entered.traceparent for entered in traced.entered] == [PARENT, "", ""]
    tracing.close()


def test_metrics_and_state(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'loki_requests_total{outcome="ok",pipeline="reading"} 9.0' in answer.read()
    connection.close()
    assert site.ask("GET", "/loki/state")[1]["requests"]["arrivals"] == 10


# -- outcomes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "leaves", "missing", "retry_s", "status"),
    [
        (Outcome.OK, 2, 0, 0.0, 200),
        (Outcome.OK, 0, 0, 0.0, 200),
        (Outcome.LATE, 1, 1, 0.0, 200),
        (Outcome.LATE, 0, 0, 0.0, 200),
        (Outcome.LATE, 0, 1, 0.0, 503),
        (Outcome.DROPPED, 1, 1, 6.5, 503),
        (Outcome.REJECTED, 0, 0, 0.0, 503),
        (Outcome.REJECTED, 0, 0, 1.0, 429),
        (Outcome.FAILED, 0, 1, 0.0, 500),
    ],
)
def test_status_of_every_outcome(
    site: Site, responder: Any, ending: Any, outcome: Outcome, leaves: int, missing: int, retry_s: float, status: int
) -> None:
    responder.script = lambda _: ending(outcome, leaves, missing, reason="a reason", retry_s=retry_s)
    got, answer, headers = site.infer(id="a7")
    assert got == status
    assert answer["id"] == "a7"
    assert answer["parameters"]["outcome"] == outcome.name.lower()
    assert answer["parameters"]["missing"] == missing
    assert headers["Retry-After"] == (str(max(1, ceil(retry_s))) if status in (429, 503) else None)
    if status != 200:
        assert answer["error"] == f"{outcome.name.lower()}: a reason"


def test_a_client_that_leaves_is_cancelled(site: Site, responder: Any) -> None:
    responder.script = lambda _: None
    body = json.dumps({"inputs": [INPUT]}).encode()
    leaving = socket.create_connection(("127.0.0.1", site.port))
    leaving.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (INFER.encode(), len(body), body))
    responder.wait_until(lambda: responder.entered)
    leaving.close()
    responder.wait_until(lambda: responder.withdrawn == [responder.entered[0].key])


def test_a_client_that_leaves_within_its_body_disturbs_nobody(site: Site) -> None:
    leaving = socket.create_connection(("127.0.0.1", site.port))
    leaving.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{" % INFER.encode())
    leaving.close()
    assert site.infer()[0] == 200


def test_many_at_once_get_their_own_answers(site: Site, responder: Any, ending: Any) -> None:
    responder.script = lambda _: ending(leaves=len(responder.entered) % 3, delay_s=len(responder.entered) % 7 / 1000)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: (number, site.infer(id=str(number))), range(200)))
    assert all(status == 200 and answer["id"] == str(number) for number, (status, answer, _) in answers)


# -- wrong requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "sentence"),
    [
        ("GET", "/", None, {}, 404, "there is no '/' here"),
        ("GET", "/v2/models/writing", None, {}, 404, "model 'writing' is unknown, 'reading' is served here"),
        ("GET", "/v2/models/reading/versions/2", None, {}, 404, "model 'reading' has no version '2', only '1'"),
        ("GET", INFER, None, {}, 405, f"'{INFER}' does not take GET"),
        ("POST", INFER, b"{", {}, 400, "the request is not inference JSON"),
        ("POST", "/v2/repository/index", b"[" * 100_000, {}, 400, "the request is not the JSON of an index"),
        ("POST", "/v2/repository/index", b'{"ready":"\xff"}', {}, 400, "the request is not the JSON of an index"),
        ("POST", INFER, b"{}", {}, 400, "input 'image' is missing"),
        ("POST", INFER, b"{}", {"Content-Encoding": "br"}, 415, "Content-Encoding 'br' is not supported"),
        ("POST", INFER, b"{}", {"Inference-Header-Content-Length": "3"}, 400, "is not a length within the body of 2 bytes"),
        ("POST", INFER, bytes(200_001), {}, 413, "the body is larger than 200000 bytes"),
        ("POST", INFER, gzip.compress(bytes(10**6)), {"Content-Encoding": "gzip"}, 413, "is larger than 200000 bytes"),
        (
            "POST",
            INFER,
            json.dumps({"inputs": [{**INPUT, "shape": [3, 1]}]}).encode(),
            {},
            400,
            "a picture is UINT8 [n] or [height, width, 3]",
        ),
    ],
)
def test_wrong_requests_get_a_status_and_a_sentence_and_the_server_goes_on(
    site: Site, method: str, path: str, body: bytes | None, headers: Any, status: int, sentence: str
) -> None:
    got, answer, _ = site.ask(method, path, body, headers)
    assert (got, list(answer)) == (status, ["error"])
    assert sentence in answer["error"]
    assert "\n" not in answer["error"]
    assert site.infer()[0] == 200


def test_a_body_without_length_is_limited_too(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    connection.request("POST", INFER, iter([bytes(100_000)] * 3), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_client_that_sends_too_much_before_it_reads_is_told_why(responder: Any) -> None:
    site = Site(responder.endpoint, 4_000_000)  # several times what sockets hold
    try:
        status, answer, _ = site.ask("POST", INFER, bytes(15_000_000))
        assert (status, answer["error"]) == (413, "the body is larger than 4000000 bytes")
    finally:
        site.close()


@pytest.mark.parametrize(("length", "more"), [(900_000, ""), (300_000, "Expect: 100-continue\r\n")])
def test_where_a_client_waits_or_means_far_too_much_nothing_is_read(site: Site, length: int, more: str) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as client:
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_plain_garbage_on_the_port_does_not_stop_it(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port)) as stranger:
        stranger.sendall(b"\x00\xff\r\n\r\n")
        stranger.recv(1000)
    assert site.infer()[0] == 200
