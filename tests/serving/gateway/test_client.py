"""The native client against a real Front."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

import numpy as np
import pytest
import zmq

from loki_rl.core.messages import Outcome
from loki_rl.serving.gateway.client import Client, ClientError, Inference, pack_payload
from loki_rl.serving.transport.protocol import MAX_MESSAGE_BYTES, VERSION, Refused
from loki_rl.serving.transport.wire import unpack

PICTURE = np.zeros((4, 6, 3), np.uint8)


def test_infer_returns_outcome_paths_and_one_array_per_leaf(responder: Any) -> None:
    with Client(responder.endpoint) as client:
        answer = client.infer(PICTURE, timeout_s=0.3)
    assert (answer.outcome, answer.accuracy, answer.missing) == ("ok", 0.75, 0)
    assert answer.served == [["big", "slow"], ["big", "fast"]]
    assert [bytes(output) for output in answer.outputs] == [b'{"text":"line 0"}', b'{"text":"line 1"}']
    assert responder.entered[0].timeout_s == 0.3
    payload = responder.entered[0].payload
    assert payload is not None
    assert unpack(payload).shape == (4, 6, 3)


def test_bytes_are_an_encoded_picture_and_none_is_no_payload(responder: Any, emulated: Any) -> None:
    with Client(responder.endpoint) as client:
        client.infer(b"\x89PNG")
    with Client(emulated.endpoint) as client:
        answer = client.infer()
    payload = responder.entered[0].payload
    assert payload is not None
    assert bytes(unpack(payload)) == b"\x89PNG"
    assert emulated.entered[0].payload is None
    assert len(answer.served) == 2
    assert answer.outputs == []


def test_submit_and_poll_do_not_wait_for_each_other(responder: Any, ending: Any) -> None:
    responder.script = lambda _: None if len(responder.entered) == 1 else ending()
    with Client(responder.endpoint) as client:
        held, quick = client.submit(PICTURE), client.submit(PICTURE)
        (answer,) = client.poll(5)
        assert answer.id == quick
        client.cancel(held)
        (cancelled,) = client.poll(5)
        assert isinstance(cancelled, Inference)
        assert (cancelled.id, cancelled.outcome) == (held, "cancelled")


def test_answers_that_arrive_during_a_question_are_kept(responder: Any) -> None:
    with Client(responder.endpoint) as client:
        ids = {client.submit(PICTURE) for _ in range(20)}
        client.begin_run()
        arrived: set[int] = set()
        while arrived != ids:
            arrived |= {answer.id for answer in client.poll(5)}


def test_every_outcome_is_an_answer_not_an_error(responder: Any, ending: Any) -> None:
    responder.script = lambda _: ending(Outcome.DROPPED, leaves=1, missing=3, reason="too late")
    with Client(responder.endpoint) as client:
        answer = client.infer(PICTURE)
    assert (answer.outcome, answer.missing, answer.reason, len(answer.outputs)) == ("dropped", 3, "too late", 1)


def test_a_refusal_is_an_error_in_infer_and_an_item_in_poll(responder: Any) -> None:
    with Client(responder.endpoint) as client:
        with pytest.raises(ClientError, match=r"a picture is UINT8 \[n\]"):
            client.infer(np.zeros(3, np.float32))
        with pytest.raises(ClientError, match="a picture is needed"):
            client.infer()
        client.submit(np.zeros((2, 2), np.uint8))
        (refused,) = client.poll(5)
        assert isinstance(refused, Refused)
        with pytest.raises(ClientError, match="complex128 cannot be sent"):
            client.infer(np.zeros(3, np.complex128))
        assert client.infer(PICTURE).outcome == "ok"


def test_what_cannot_be_sent_is_said_before_it_is(responder: Any) -> None:
    wrong: list[tuple[Any, str]] = [
        (np.array(["a picture"]), "an array of <U9 cannot be sent"),
        (np.zeros(MAX_MESSAGE_BYTES, np.uint8), "a payload of 32 MB cannot be sent; it may have 31 MB"),
    ]
    terms: list[tuple[dict[str, Any], str]] = [
        ({"timeout_s": np.nan}, "timeout_s must be a number from 0 to 3600, not nan"),
        ({"timeout_s": np.inf}, "timeout_s must be a number from 0 to 3600, not inf"),
        ({"min_accuracy": "much"}, "min_accuracy must be a number from 0 to 1, not 'much'"),
        ({"priority": -1}, "priority must be a number from 0"),
        ({"priority": 1.5}, "priority must be a whole number, not 1.5"),
    ]
    with Client(responder.endpoint) as client:
        for payload, says in wrong:
            with pytest.raises(ClientError, match=says):
                client.infer(payload)
        for given, says in terms:
            with pytest.raises(ClientError, match=says):
                client.infer(PICTURE, **given)
        with pytest.raises(ClientError, match="timeout_s must be a number from 0 to inf, not nan"):
            client.describe(np.nan)
        assert client.infer(PICTURE, np.float32(5), min_accuracy=np.float32(0), priority=np.int64(1)).outcome == "ok"  # type: ignore[arg-type]
    assert len(responder.entered) == 1
    for endpoint in (None, 5):
        with pytest.raises(ClientError, match="cannot connect to"):
            Client(endpoint)  # type: ignore[arg-type]


def test_a_client_that_is_closed_says_so(responder: Any) -> None:
    client = Client(responder.endpoint)
    client.close()
    client.close()
    calls = (client.infer, client.submit, client.poll, client.describe, client.wait_ready, client.filenos, client.state)
    for call in (*calls, lambda: client.cancel(1)):
        with pytest.raises(ClientError, match="this client is closed"):
            call()


def test_a_client_is_for_one_thread_at_a_time(responder: Any, ending: Any) -> None:
    asked, go_on = threading.Event(), threading.Event()
    answered: list[str] = []

    def wait(_: Any) -> Any:
        asked.set()
        go_on.wait(60)
        return ending()

    responder.script = wait
    with Client(responder.endpoint) as client:
        other = threading.Thread(target=lambda: answered.append(client.infer(PICTURE, 60.0).outcome))
        other.start()
        assert asked.wait(60)
        for call in (client.infer, client.poll, client.close):
            with pytest.raises(ClientError, match="in use by another thread"):
                call()
        go_on.set()
        other.join(60)
        assert answered == ["ok"]
        assert client.describe().pipeline == "reading"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_to_make_its_own(responder: Any) -> None:
    with Client(responder.endpoint) as client:
        client.infer(PICTURE)
        child = os.fork()
        if not child:  # pragma: no cover
            with contextlib.suppress(ClientError):
                client.infer(PICTURE)
                os._exit(1)
            client.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.infer(PICTURE).outcome == "ok"


def test_ledger_and_readiness(responder: Any) -> None:
    with Client(responder.endpoint) as client:
        assert client.wait_ready(5).pipeline == "reading"
        client.infer(PICTURE)
        assert client.ledger().tally.arrivals == 1
        assert client.begin_run() == responder.origin
        assert client.ledger().tally.arrivals == 0


def test_an_absent_gateway_is_said_clearly() -> None:
    with Client("tcp://127.0.0.1:9", timeout_s=0.05) as client:
        with pytest.raises(ClientError, match=r"no answer from 'tcp://127\.0\.0\.1:9' within 0\.05 s"):
            client.infer(PICTURE)
        with pytest.raises(ClientError, match=r"was not ready within 0\.1 s"):
            client.wait_ready(0.1)
    with pytest.raises(ClientError, match=r"cannot connect to 'nowhere': .*; it is tcp://HOST:PORT or ipc://PATH"):
        Client("nowhere")


@pytest.mark.parametrize("payload", ["text", [1, 2], {"image": b""}, 7])
def test_what_is_no_payload_is_said_clearly(payload: object) -> None:
    with pytest.raises(ClientError, match=f"a payload is an array or bytes, not {type(payload).__name__}; "):
        pack_payload(payload)  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [[b"\x09x"], [b""], [bytes((VERSION,)) + b"\xc1"]])
def test_a_stranger_at_the_endpoint_is_said_clearly(frames: list[bytes]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    port = stranger.bind_to_random_port("tcp://127.0.0.1")
    with Client(f"tcp://127.0.0.1:{port}") as client:
        stranger.send_multipart(frames)
        with pytest.raises(ClientError, match=r"version 3|cannot be read"):
            client.describe()
    stranger.close(linger=0)
    context.term()
