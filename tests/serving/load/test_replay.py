"""Open-loop replay against scripted gateways: the account adds up, and a slow server delays no request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from loki_rl.core.messages import Outcome
from loki_rl.serving.gateway.client import ClientError
from loki_rl.serving.load import http_sender
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.load.replay import replay, replay_over
from loki_rl.serving.load.sender import ReplayError
from loki_rl.serving.transport.addresses import AddressError
from loki_rl.serving.transport.protocol import LedgerRead, Tensor
from loki_rl.serving.transport.wire import unpack
from loki_rl.traces.demand import Wishes
from tests.serving.site import Site

PICTURES = [np.full((2, 3, 3), number, np.uint8) for number in range(3)]
KEYS = [
    "arrivals", "ok", "late", "dropped", "rejected", "cancelled", "failed", "slo_violation_ratio", "leaf_violation_ratio",
    "accuracy", "servers_mean", "p50_ms", "p99_ms", "task_executions", "cost_j", "wall_s",
]  # fmt: skip


@pytest.fixture(params=["native", "http"])
def url(request: pytest.FixtureRequest, responder: Any) -> str:
    if request.param == "native":
        return str(responder.endpoint)
    return f"http://{request.getfixturevalue('site').url}"


def test_every_request_is_sent_on_time_with_its_payload_and_accounted_for(url: str, responder: Any) -> None:
    arrivals = np.arange(200) / 400
    result = replay(url, "reading", arrivals, PICTURES, slo_s=5.0, warmup=2)
    assert list(result.summary()) == KEYS
    assert (result.summary()["arrivals"], result.summary()["ok"]) == (200, 200)
    assert result.summary()["accuracy"] == 0.75
    assert np.all(result.sent_s >= result.intended_s)
    assert np.all(result.latency_s > 0)
    sent = [int(unpack(entered.payload)[0, 0, 0]) for entered in responder.entered[2:]]
    assert sorted(sent) == sorted(number % 3 for number in range(200))
    assert all(entered.timeout_s == 5.0 for entered in responder.entered)
    assert 0.49 <= result.wall_s < 5


def test_every_request_asks_for_what_the_trace_says(url: str, responder: Any) -> None:
    priority, floors = np.arange(12) % 3, np.where(np.arange(12) % 2, 0.5, 0.0)
    wishes = Wishes(priority, floors, np.zeros(12, np.int64))
    replay(url, "reading", np.arange(12) / 100, PICTURES, slo_s=5.0, warmup=1, wishes=wishes)
    asked = [(entered.priority, entered.min_accuracy) for entered in responder.entered]
    assert asked[0] == (0, 0.0), "before the run"
    assert sorted(asked[1:]) == sorted(zip(priority.tolist(), floors.tolist(), strict=True))


def test_answers_to_some_pictures_are_kept_if_asked_for(responder: Any) -> None:
    result = replay(responder.endpoint, "reading", np.arange(9) / 100, PICTURES, slo_s=5.0, keep={1})
    assert list(result.kept) == [1, 4, 7]
    two = replay(responder.endpoint, "reading", np.arange(6) / 100, PICTURES, slo_s=5.0, keep=range(2))
    assert sorted(two.kept) == [0, 1, 3, 4]
    assert all(answer.served for answer in result.kept.values())
    assert replay(responder.endpoint, "reading", np.arange(9) / 100, PICTURES, slo_s=5.0).kept == {}


def test_server_side_figures_come_from_its_ledger_without_the_warmup(url: str, responder: Any) -> None:
    result = replay(url, "reading", np.arange(20) / 100, PICTURES, slo_s=5.0, warmup=3)
    assert result.ledger is not None
    assert result.ledger.tally.arrivals == 20
    assert result.figures.task_executions == 60
    assert result.figures.servers_mean == 1.0
    assert result.figures.leaf_violation_ratio == 0.0
    assert result.figures.cost_j == pytest.approx(0.25 + 0.1)
    assert len(responder.entered) == 23


def test_the_servers_of_the_last_second_are_waited_for(responder: Any) -> None:
    responder.silent_ledgers = 1
    result = replay(responder.endpoint, "reading", np.arange(5) / 10, PICTURES, slo_s=5.0)
    assert result.figures.servers_mean == 1.0
    assert result.wall_s < 1


def test_a_gateway_that_dies_after_the_run_leaves_the_account_of_the_client(
    responder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loki_rl.serving.gateway.client.Client.__init__.__defaults__", (0.2, None))
    answer = responder.front.answer
    monkeypatch.setattr(responder.front, "answer", lambda to, what: isinstance(what, LedgerRead) or answer(to, what))
    result = replay(responder.endpoint, "reading", np.arange(5) / 100, PICTURES, slo_s=5.0)
    assert (result.ledger, result.figures.ok, result.figures.cost_j) == (None, 5, None)


def test_an_open_loop_does_not_wait_for_replies(url: str, responder: Any, ending: Any) -> None:
    """Each answer takes 20 times the gap between requests: a closed loop would need 4 s for what takes 0.3 s here."""
    responder.script = lambda _: ending(delay_s=0.1 if len(responder.entered) > 1 else 0.0)
    result = replay(url, "reading", np.arange(40) * 0.005, PICTURES, slo_s=5.0, warmup=1)
    assert result.figures.ok == 40
    assert result.wall_s < 2
    assert result.lag.p50_ms < 100
    assert result.figures.p50_ms >= 100


def test_every_outcome_is_counted_once(url: str, responder: Any, ending: Any) -> None:
    script = [
        ending(Outcome.OK), ending(Outcome.LATE), ending(Outcome.DROPPED, 1, 1), ending(Outcome.REJECTED, 0),
        ending(Outcome.FAILED, 0, 1), ending(Outcome.CANCELLED, 0, 1),
    ]  # fmt: skip
    responder.script = lambda _: script[(len(responder.entered) - 1) % 6]
    result = replay(url, "reading", np.arange(12) / 200, PICTURES, slo_s=5.0, warmup=0)
    figures = result.figures
    counts = [getattr(figures, outcome.name.lower()) for outcome in Outcome]
    assert counts == [2] * 6
    assert figures.slo_violation_ratio == pytest.approx(10 / 12)
    assert np.count_nonzero(result.accuracy) == 2
    assert result.tally.latencies.count == 4


def test_why_the_first_request_failed_is_kept(url: str, responder: Any, ending: Any) -> None:
    responder.script = lambda _: ending(Outcome.FAILED, 0, 1, reason="the model fell over")
    failed = replay(url, "reading", np.arange(3) / 200, PICTURES, slo_s=5.0, warmup=0)
    responder.script = lambda _: ending(Outcome.DROPPED, 1, 1, reason="too late")
    dropped = replay(url, "reading", np.arange(3) / 200, PICTURES, slo_s=5.0, warmup=0)
    assert failed.fault.endswith("the model fell over")
    assert dropped.fault == ""


def test_what_the_client_sees_too_late_is_late_though_the_server_says_ok(url: str, responder: Any, ending: Any) -> None:
    responder.script = lambda _: ending(delay_s=0.06)
    result = replay(url, "reading", np.arange(5) / 100, PICTURES, slo_s=0.05, warmup=0)
    assert (result.figures.late, result.figures.ok, result.figures.accuracy) == (5, 0, 0.0)
    assert np.all(result.latency_s > 0.05)


def test_a_request_without_an_answer_has_failed_after_deadline_and_grace(responder: Any, ending: Any) -> None:
    responder.script = lambda _: ending() if len(responder.entered) % 2 else None
    result = replay(responder.endpoint, "reading", np.arange(4) / 100, PICTURES, slo_s=0.05, warmup=0)
    assert result.outcomes.tolist() == [Outcome.OK, Outcome.FAILED, Outcome.OK, Outcome.FAILED]
    assert np.isnan(result.latency_s).tolist() == [False, True, False, True]
    assert result.wall_s < 0.05 + 0.5 + 1 + 0.5


def test_a_stalled_client_shows_as_lag_and_latency_counts_from_the_intended_time(responder: Any) -> None:
    arrivals = np.zeros(300)
    result = replay(responder.endpoint, "reading", arrivals, PICTURES, slo_s=0.5, warmup=0)
    assert result.lag.max_ms > 0
    assert np.all(result.latency_s >= result.sent_s - 1e-9)


def test_an_emulated_pipeline_is_replayed_without_payloads(emulated: Any) -> None:
    result = replay(emulated.endpoint, "reading", np.arange(10) / 100, None, slo_s=5.0)
    assert result.figures.ok == 10


def test_no_requests_are_a_run_too(url: str) -> None:
    result = replay(url, "reading", np.empty(0), PICTURES, slo_s=0.5, warmup=0)
    assert (result.figures.arrivals, result.figures.slo_violation_ratio) == (0, 0.0)


def test_requests_wait_inside_the_client_when_connections_run_out(
    site: Site, responder: Any, ending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_sender, "MAX_CONNECTIONS", 2)
    responder.script = lambda _: ending(delay_s=0.02)
    result = replay(f"http://{site.url}", "reading", np.zeros(10), PICTURES, slo_s=5.0, warmup=0)
    assert result.figures.ok == 10
    assert result.lag.max_ms > 60


# -- what cannot be replayed ---------------------------------------------------------------------------------------------


def test_wrong_calls_are_said_clearly(url: str) -> None:
    with pytest.raises(ReplayError, match="writing"):
        replay(url, "writing", np.zeros(1), PICTURES, slo_s=0.5)
    with pytest.raises(ReplayError, match=r"a picture is UINT8 \[n\]"):
        replay(url, "reading", np.zeros(1), [np.zeros((2, 2), np.uint8)], slo_s=0.5)
    with pytest.raises(ReplayError, match="rising"):
        replay(url, "reading", np.array([1.0, 0.5]), PICTURES, slo_s=0.5)
    with pytest.raises(ReplayError, match="SLO must be above 0"):
        replay(url, "reading", np.zeros(1), PICTURES, slo_s=0.0)
    with pytest.raises(AddressError, match="is neither tcp://"):
        replay("ftp://x", "reading", np.zeros(1), PICTURES, slo_s=0.5)


@pytest.mark.parametrize("malformed", ["http://x:99999", "http://x:y", "http://[::1", "http://x:80/v2/models", "http://"])
def test_a_malformed_address_is_said_clearly(malformed: str) -> None:
    with pytest.raises(AddressError, match=r"is not an http://HOST:PORT \(or https\) address"):
        replay(malformed, "reading", np.zeros(1), PICTURES, slo_s=0.5)


def test_a_server_that_speaks_no_http_is_said_clearly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        url = f"http://127.0.0.1:{stranger.getsockname()[1]}"

        def answer() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\x00\x12\x04\x00\xff garbage\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(ReplayError, match=r"what answers at http://127.0.0.1:\d+ is not an HTTP server"):
            replay(url, "reading", np.zeros(1), PICTURES, slo_s=0.5)
        thread.join()


def test_a_server_that_answers_nothing_is_said_clearly(responder: Any) -> None:
    responder.script = lambda _: None
    with pytest.raises(ReplayError, match="no answer to a request before the run"):
        replay(responder.endpoint, "reading", np.zeros(1), PICTURES, slo_s=0.05)


def test_an_absent_server_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReplayError, match="no answer to GET http://127"):
        replay("http://127.0.0.1:9", "reading", np.zeros(1), PICTURES, slo_s=0.5)
    monkeypatch.setattr("loki_rl.serving.gateway.client.Client.__init__.__defaults__", (0.05, None))
    with pytest.raises(ClientError, match="no answer"):
        replay("tcp://127.0.0.1:9", "reading", np.zeros(1), PICTURES, slo_s=0.5)


# -- a foreign server ----------------------------------------------------------------------------------------------------


class Foreign(BaseHTTPRequestHandler):
    """Knows the protocol and nothing of ours; every third request meets an overload, every fifth a broken connection."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_GET(self) -> None:
        known = self.path == "/v2/models/doubler"
        self._answer(200 if known else 400, b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2]}]}' if known else b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path != "/v2/models/doubler/infer":
            self._answer(404, b"")
            return
        Foreign.count += 1
        if Foreign.count % 5 == 0:
            self.close_connection = True
        elif Foreign.count % 3 == 0:
            self._answer(503, b'{"error":"full"}')
        else:
            self._answer(200, b'{"model_name":"doubler","outputs":[]}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


class Silent(Foreign):
    """Does not even say what it serves."""

    def do_GET(self) -> None:
        self._answer(405, b"")


@contextmanager
def foreign_at(kind: type[Foreign], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Foreign, "count", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as foreign:
        thread = threading.Thread(target=foreign.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{foreign.server_address[1]}"
        finally:
            foreign.shutdown()
            thread.join()


def test_a_foreign_server_is_judged_by_its_statuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with foreign_at(Foreign, monkeypatch) as url:
        result = replay(url, "doubler", np.arange(15) / 100, [np.ones(2, np.float32)], slo_s=5.0, warmup=0)
    figures = result.figures
    assert (figures.ok, figures.rejected, figures.failed) == (8, 4, 3)
    assert (result.ledger, figures.servers_mean, figures.cost_j, figures.task_executions) == (None, None, None, None)
    assert figures.accuracy is None


def test_a_server_that_does_not_describe_its_model_is_sent_what_the_caller_says_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payloads = [np.ones(2, np.float32)]
    with foreign_at(Silent, monkeypatch) as url:
        with pytest.raises(ReplayError, match="status 405"):
            replay(url, "doubler", np.arange(2) / 100, payloads, slo_s=5.0)
        sender = HttpSender(url, "doubler", payloads, 5.0, Tensor("x", "FP32", (2,)))
        result = replay_over(sender, np.arange(15) / 100, 5.0, warmup=0)
    assert (result.figures.ok, result.figures.rejected, result.figures.failed) == (8, 4, 3)
