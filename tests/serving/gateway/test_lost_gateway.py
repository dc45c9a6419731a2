"""A gateway that is killed: what it had in flight ends once and at once, nothing of it is taken for its successor's, and the
successor is found."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs

from loki_rl.core.messages import Outcome
from loki_rl.serving.gateway.client import Client, ClientError, GatewayGoneError, Inference
from tests.serving.driving import eventually
from tests.serving.edge.rpc_site import Site as RpcSite
from tests.serving.edge.rpc_site import message
from tests.serving.edge.test_native_proxy import Running
from tests.serving.gateway_process import HOLD_S, GatewayProcess
from tests.serving.site import Site

PICTURE = np.zeros((4, 6, 3), np.uint8)
LONG_S = 10 * HOLD_S
LOST = "the gateway was lost before it answered"


@pytest.fixture
def endpoint() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    yield f"ipc://{folder}/front"
    shutil.rmtree(folder)


@pytest.fixture(params=["on this host", "through the proxy"])
def address(request: pytest.FixtureRequest, endpoint: str) -> Iterator[str]:
    """Where native clients find the gateway."""
    if request.param == "on this host":
        yield endpoint
        return
    proxy = Running(endpoint)
    yield proxy.url
    proxy.close()


def arrivals(client: Client, count: int) -> None:
    eventually(lambda: client.ledger().tally.arrivals >= count, "the requests never came")


def test_a_native_client_gets_one_end_for_each_request_in_flight(endpoint: str, address: str) -> None:
    with GatewayProcess(endpoint) as gateway, Client(address) as client:
        answered = client.infer(PICTURE)
        held = [client.submit(PICTURE, LONG_S) for _ in range(300)]
        arrivals(client, 301)
        gateway.kill()
        ends: list[Any] = []
        while len(ends) < len(held):
            found = client.poll(30)
            assert found, "an end is missing"
            ends += found
        assert answered.outcome == "ok"
        assert [end.id for end in ends] == held
        assert {(end.outcome, end.reason) for end in ends} == {("failed", LOST)}
        assert all(1.0 <= end.retry_s < 3.0 for end in ends)
        with pytest.raises(GatewayGoneError, match=r"no gateway is at '(ipc|tcp)://"):
            client.submit(PICTURE)
        with GatewayProcess(endpoint):
            assert client.wait_ready(30).pipeline == "reading"
            assert client.infer(PICTURE).outcome == "ok"
            assert client.ledger().tally.arrivals == 1
            assert client.poll() == []


def test_infer_and_questions_that_wait_end_with_the_gateway(endpoint: str, address: str) -> None:
    with GatewayProcess(endpoint) as gateway, Client(address) as witness, ThreadPoolExecutor(1) as pool:

        def infer() -> Inference:
            with Client(address) as client:
                return client.infer(PICTURE, LONG_S)

        waiting: Future[Inference] = pool.submit(infer)
        arrivals(witness, 1)
        gateway.kill()
        ended = waiting.result(30)
        assert (ended.outcome, ended.reason) == ("failed", LOST)
        with pytest.raises(ClientError):
            witness.state()


def test_answers_that_came_before_the_loss_are_answers(endpoint: str, address: str) -> None:
    with GatewayProcess(endpoint) as gateway, Client(address) as client:
        quick = [client.submit(PICTURE) for _ in range(100)]
        eventually(lambda: client.ledger().tally.outcome(Outcome.OK) == len(quick), "the requests are not answered")
        gateway.kill()
        ends: list[Any] = []
        while len(ends) < len(quick):
            ends += client.poll(30)
        assert {end.outcome for end in ends} == {"ok"}
        assert client.poll(0.2) == []


class Held:
    """Requests over HTTP that stay open, each on a connection and thread of its own."""

    def __init__(self, site: Site, count: int) -> None:
        self._pool = ThreadPoolExecutor(count)
        parameters = {"timeout": round(1e6 * LONG_S)}
        self.answers = [self._pool.submit(site.infer, parameters=parameters) for _ in range(count)]

    def close(self) -> None:
        self._pool.shutdown()


def test_http_requests_in_flight_get_503_and_the_successor_is_found(endpoint: str) -> None:
    with GatewayProcess(endpoint) as gateway, Client(endpoint) as witness:
        site = Site(endpoint)
        assert site.infer()[0] == 200
        held = Held(site, 20)
        arrivals(witness, 21)
        gateway.kill()
        for answer in held.answers:
            status, told, headers = answer.result(30)
            assert (status, told["error"]) == (503, f"failed: {LOST}")
            assert told["parameters"]["outcome"] == "failed"
            assert 1 <= int(headers["Retry-After"]) <= 3
        held.close()
        for path in ("/v2/health/ready", "/v2/models/reading", "/metrics"):
            assert site.ask("GET", path)[0] == 503
        assert site.infer()[:2] == (503, {"error": "the gateway is not there"})
        with GatewayProcess(endpoint):
            eventually(lambda: site.ask("GET", "/v2/health/ready")[0] == 200, "the new gateway is not found")
            assert site.infer()[0] == 200
        site.close()


def test_grpc_calls_in_flight_are_unavailable(endpoint: str) -> None:
    with GatewayProcess(endpoint) as gateway, Client(endpoint) as witness:
        site = RpcSite(endpoint)
        with grpc.insecure_channel(site.url) as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            timeout = {"timeout": pb.InferParameter(int64_param=round(1e6 * LONG_S))}
            calls = [stub.ModelInfer.future(message(parameters=timeout)) for _ in range(5)]
            arrivals(witness, 5)
            gateway.kill()
            for call in calls:
                assert call.exception(30).code() is grpc.StatusCode.UNAVAILABLE
                assert LOST in call.details()
                told = dict(call.trailing_metadata())
                assert json.loads(told["loki-parameters"])["outcome"] == "failed"
                assert 1 <= int(told["retry-after"]) <= 3
        site.close()


def test_requests_go_on_through_many_losses_and_each_ends_once(endpoint: str, address: str) -> None:
    """As fast as it can be killed and started again, with a client that does not look in between."""
    stop = threading.Event()
    ends: dict[int, int] = {}
    sent: list[int] = []

    def send() -> None:
        with Client(address) as client:
            while not (stopped := stop.is_set()) or len(ends) < len(sent):
                if not stopped:
                    try:
                        sent.append(client.submit(PICTURE, LONG_S if len(sent) % 2 else None))
                    except GatewayGoneError:
                        time.sleep(0.001)
                found = client.poll(30 if stopped else 0.001)
                assert found or not stopped, "an end is missing"
                for end in found:
                    ends[end.id] = ends.get(end.id, 0) + 1

    gateway = GatewayProcess(endpoint)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        for _ in range(3):
            many = len(sent) + 50
            eventually(lambda many=many: len(sent) > many or sending.done(), "nothing is sent")  # type: ignore[misc]
            gateway.kill()
            gateway = GatewayProcess(endpoint)
        stop.set()
        gateway.kill()
        sending.result(60)
    assert set(ends) == set(sent)
    assert set(ends.values()) == {1}
