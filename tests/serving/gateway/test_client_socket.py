"""The server's end of the native protocol: every message is answered once, whatever is in it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loki_rl.core.effects import Reply
from loki_rl.core.messages import Cause, Outcome
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.requests.items import Served
from loki_rl.serving.gateway.client_socket import (
    ClientSocket,
    Entered,
    FrontEvent,
    Question,
    Withdrawn,
)
from loki_rl.serving.gateway.schema import describe
from loki_rl.serving.observe.names import PathNames
from loki_rl.serving.state import PlaneState, Requests
from loki_rl.serving.transport.protocol import (
    VERSION,
    Answer,
    BeginRun,
    Begun,
    Cancel,
    Describe,
    Described,
    Infer,
    ReadLedger,
    ReadState,
    Refusal,
    Refused,
    Request,
    Response,
    StateRead,
    Tensor,
    Turned,
    decode_response,
    encode,
)
from loki_rl.serving.transport.wire import pack, unpack

ROW = {1: Latency(0.001, 0.001, 0.001)}
PIPELINE = Pipeline(
    name="chain",
    slo_s=0.2,
    tasks=(
        Task("a", (Variant("a0", 0.9, ROW, {"b": 1.0}),), entry=1.0),
        Task("b", (Variant("b0", 1.0, ROW), Variant("b1", 0.5, ROW)), parent="a"),
    ),
    leaf_weights={"b": 1.0},
)


V = bytes((VERSION,))
FRAMES = st.binary(max_size=40) | st.just(V) | st.just(bytes(encode(Infer(1, "chain"))))


class Peer:
    """A client socket beside the Front, in one thread: what is sent is handled before `ask` returns."""

    def __init__(self, max_message_bytes: int = 1 << 20) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.fault: str | None = None
        self.fault_raised: Exception | None = None
        described = describe(PIPELINE, "emulated", Tensor("input", "BYTES", (1,), True), Tensor("path", "BYTES", (-1,)))
        endpoint = "tcp://127.0.0.1:0"
        self.front = ClientSocket(self.context, endpoint, PIPELINE, described, self.check, max_message_bytes)
        self.socket = self.connect()

    def check(self, _frame: zmq.Frame | None) -> str | None:
        if self.fault_raised is not None:
            raise self.fault_raised
        return self.fault

    def connect(self) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self.front.socket.getsockopt_string(zmq.LAST_ENDPOINT))
        return socket

    def ask(self, request: Request, *tensors: bytes) -> list[FrontEvent]:
        return self.send(encode(request), *tensors)

    def send(self, *frames: bytes | bytearray) -> list[FrontEvent]:
        self.socket.send_multipart(frames)
        assert self.front.socket.poll(5000)
        return self.front.receive()

    def enter(self, id: int = 1) -> Entered:
        (event,) = self.ask(Infer(id, "chain"))
        assert isinstance(event, Entered)
        return event

    def answer(self) -> tuple[Response, list[bytes]]:
        assert self.socket.poll(5000), "no answer"
        header, *tensors = self.socket.recv_multipart()
        return decode_response(header), tensors

    def refusal(self) -> Refused:
        response, tensors = self.answer()
        assert isinstance(response, Refused)
        assert not tensors
        return response

    def close(self) -> None:
        self.socket.close(linger=0)
        self.front.close()
        self.context.term()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def reply_to(key: int, outcome: Outcome = Outcome.OK, leaves: int = 0) -> Reply:
    paths = [PIPELINE.extend(PIPELINE.extend(0, 0), leaf % 2) for leaf in range(leaves)]
    return Reply(key, 7, outcome, 0.125, 0.75, [Served(1, leaf, path, 1) for leaf, path in enumerate(paths)], 0, "")


def test_a_request_becomes_an_event_with_its_payload_and_its_answer_carries_path_names(peer: Peer) -> None:
    payload = pack(np.arange(6, dtype=np.uint8))
    (event,) = peer.ask(Infer(11, "chain", 0.5), payload)
    assert isinstance(event, Entered)
    assert event.timeout_s == 0.5
    assert event.payload is not None
    assert unpack(event.payload).tolist() == [0, 1, 2, 3, 4, 5]
    peer.front.reply(reply_to(event.key, leaves=2), [b"first", b"second"])
    answer, tensors = peer.answer()
    assert answer == Answer(11, "ok", 0.125, 0.75, [["a0", "b0"], ["a0", "b1"]], 0, "", 0.375)
    assert tensors == [b"first", b"second"]


@pytest.mark.parametrize(
    ("fitting", "refusal", "sentence"),
    [
        (1, Refusal("b", 0.012, "b1"), "too late: 'b' would have ended 12 ms too late, only 'b1' would have fitted"),
        (-1, Refusal("b", 0.012, ""), "too late: 'b' would have ended 12 ms too late, no variant would have fitted by then"),
    ],
)
def test_a_refusal_names_stage_lateness_and_what_would_have_fitted(
    peer: Peer, fitting: int, refusal: Refusal, sentence: str
) -> None:
    cause = Cause(1, 0.012, fitting)
    peer.front.reply(Reply(peer.enter().key, 7, Outcome.DROPPED, 0.1, 0.0, [], 1, "too late", cause, 6.5))
    answer, _ = peer.answer()
    assert isinstance(answer, Answer)
    assert (answer.reason, answer.retry_s, answer.refusal) == (sentence, 6.5, refusal)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_its_word(peer: Peer, outcome: Outcome) -> None:
    peer.front.reply(reply_to(peer.enter().key, outcome))
    answer, _ = peer.answer()
    assert isinstance(answer, Answer)
    assert answer.outcome == outcome.name.lower()


def test_what_the_client_asked_too_much_of_is_said_without_a_stage(peer: Peer) -> None:
    why = "min_accuracy 0.95 is above 0.9"
    effect = replace(reply_to(peer.enter().key, Outcome.REJECTED), reason=why, cause=Cause(-1, client_fault=True))
    peer.front.reply(effect)
    answer, _ = peer.answer()
    assert isinstance(answer, Answer)
    assert (answer.reason, answer.refusal) == (why, Refusal("", client_fault=True))


def test_a_request_is_answered_once(peer: Peer) -> None:
    key = peer.enter().key
    peer.front.reply(reply_to(key))
    peer.front.reply(reply_to(key, Outcome.LATE))
    peer.ask(Describe(2))
    assert isinstance(peer.answer()[0], Answer)
    assert isinstance(peer.answer()[0], Described)


def test_the_same_id_of_two_clients_is_two_requests(peer: Peer) -> None:
    first = peer.enter(5)
    one, peer.socket = peer.socket, peer.connect()
    second = peer.enter(5)
    assert first.key != second.key
    peer.front.reply(reply_to(second.key))
    assert isinstance(peer.answer()[0], Answer)
    assert not one.poll(0)
    one.close(linger=0)


def test_an_id_in_flight_is_refused_and_free_again_after_its_answer(peer: Peer) -> None:
    key = peer.enter(5).key
    assert peer.ask(Infer(5, "chain")) == []
    assert peer.refusal() == Refused(5, "id 5 is still in flight")
    peer.front.reply(reply_to(key))
    assert isinstance(peer.answer()[0], Answer)
    assert peer.enter(5).key != key


def test_cancelling_names_the_key_and_unknown_ids_are_ignored(peer: Peer) -> None:
    key = peer.enter(5).key
    assert peer.ask(Cancel(6)) == []
    assert peer.ask(Cancel(5)) == [Withdrawn(key)]


def test_questions(peer: Peer) -> None:
    assert peer.ask(Describe(1)) == []
    before, _ = peer.answer()
    peer.front.ready = True
    peer.ask(Describe(2))
    after, _ = peer.answer()
    assert isinstance(before, Described)
    assert isinstance(after, Described)
    assert (before.id, before.ready, after.id, after.ready) == (1, False, 2, True)
    assert [(task.name, task.variants) for task in after.tasks] == [("a", ("a0",)), ("b", ("b0", "b1"))]
    (run,) = peer.ask(BeginRun(3, 12.5))
    assert isinstance(run, Question)
    assert run.request == BeginRun(3, 12.5)
    peer.front.answer(run, Begun(3, 12.5))
    assert peer.answer()[0] == Begun(3, 12.5)
    (ledger,) = peer.ask(ReadLedger(4))
    assert isinstance(ledger, Question)
    assert ledger.request == ReadLedger(4)
    peer.front.refuse(ledger, "not now")
    assert (peer.refusal(), peer.front.malformed) == (Refused(4, "not now"), 1)
    (asked,) = peer.ask(ReadState(5))
    assert isinstance(asked, Question)
    state = PlaneState("chain", "emulated", 0.2, 1.0, 4, True, 1.0, 0, 0, Requests())
    peer.front.answer(asked, StateRead(5, state))
    assert peer.answer()[0] == StateRead(5, state)


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        ((b"",), "a message begins with the version byte 3 and a header"),
        ((b"\x01", b"\x90"), "a message begins with the version byte 3 and a header"),
        ((V,), "the header is not a request"),
        ((V + b"\x91\xa5Infer",), "the header is not a request"),
        ((V + msgspec.msgpack.encode(["Infer", "1", "chain", 0.0]),), "Expected `int`, got `str`"),
        ((V + msgspec.msgpack.encode(["Infer", 1, "chain", -1.0]),), "Expected `float` >= 0.0"),
        ((V + msgspec.msgpack.encode(["Infer", 1, "chain", float("nan")]),), "the header is not a request"),
        ((V + msgspec.msgpack.encode(["Infer", 1, "chain", float("inf")]),), "Expected `float` <= 3600.0"),
        ((V + msgspec.msgpack.encode(["Infer", -1, "chain", 0.0]),), "Expected `int` >= 0"),
        ((V + msgspec.msgpack.encode(["Infer", 1, "chain", 0.0, float("nan")]),), "Expected `float` >= 0.0"),
        ((V + msgspec.msgpack.encode(["Infer", 1, "chain", 0.0, 0.5, 1 << 32]),), "Expected `int` <= 4294967295"),
        ((V + msgspec.msgpack.encode(["Turned", {"whim": 1}]),), "Invalid enum value 'whim'"),
        ((V + msgspec.msgpack.encode(["Turned", {"slow": -1}]),), "Expected `int` >= 1"),
        ((V + msgspec.msgpack.encode(["BeginRun", 1, "now"]),), "Expected `float | null`, got `str`"),
        ((encode(Infer(1, "x" * 100_000)),), "xxx ..."),
        ((encode(Infer(1, "train")),), "pipeline 'train' is not served here, 'chain' is"),
        ((encode(Infer(1, "chain")), b"x", b"y"), "a request takes one tensor, not more"),
        ((encode(Describe(1)), b"x"), "Describe takes no tensor"),
        ((V + msgspec.msgpack.encode(["Infer", 1, "chain", 0.0, 1.5]),), "Expected `float` <= 1.0"),
        ((V + msgspec.msgpack.encode(["Infer", 1, "chain", 0.0, 0.5, -1]),), "Expected `int` >= 0"),
    ],
)
def test_a_malformed_message_is_refused_in_a_sentence_and_the_next_one_served(
    peer: Peer, frames: tuple[bytes | bytearray, ...], sentence: str
) -> None:
    assert peer.send(*frames) == []
    assert sentence in peer.refusal().message
    assert peer.front.malformed == 1
    peer.enter()


def test_what_the_processes_in_front_turned_away_adds_up(peer: Peer) -> None:
    for _ in range(2):
        assert peer.ask(Turned({"slow": 2, "head": 1})) == []
    assert peer.front.turned == {"slow": 4, "head": 2}
    peer.enter()


def test_the_check_of_the_payload_speaks_to_the_client(peer: Peer) -> None:
    peer.fault = "a picture is needed"
    assert peer.ask(Infer(1, "chain")) == []
    assert peer.refusal() == Refused(1, "a picture is needed")


def test_a_check_that_fails_refuses_the_request_and_no_more(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    peer.fault_raised = RuntimeError("a bug")
    assert peer.ask(Infer(1, "chain")) == []
    assert peer.refusal() == Refused(1, "the request cannot be understood (RuntimeError); the server's log says more")
    assert "a bug" in caplog.text
    peer.fault_raised = None
    peer.enter(1)


FIELDS = st.floats() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=5) | st.none() | st.binary(max_size=5)
HEADERS = st.tuples(
    st.sampled_from(["Infer", "Cancel", "Describe", "BeginRun", "ReadLedger", "ReadState", "Turned", "Other"]),
    st.just(7) | FIELDS, st.just("chain") | FIELDS, FIELDS, FIELDS, FIELDS,
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HEADERS, st.integers(1, 6))
def test_no_value_in_a_header_is_more_than_a_wrong_request(peer: Peer, header: tuple[object, ...], length: int) -> None:
    """What does become an event holds numbers only that the core can count with."""
    for event in peer.send(V + msgspec.msgpack.encode(header[:length])):
        if isinstance(event, Entered):
            assert 0 <= event.timeout_s <= 3600
            assert 0 <= event.min_accuracy <= 1
            peer.front.reply(reply_to(event.key))


def test_frames_without_end_do_not_disturb_the_next_message(peer: Peer) -> None:
    peer.send(encode(Infer(1, "chain")), *[b""] * 2000)
    assert "one tensor" in peer.refusal().message
    peer.enter()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40) | st.just(V) | st.just(bytes(encode(Infer(1, "chain")))), min_size=1, max_size=5))
def test_no_message_stops_the_front(peer: Peer, frames: list[bytes]) -> None:
    for event in peer.send(*frames):
        if isinstance(event, Entered):
            peer.front.reply(reply_to(event.key))
        elif isinstance(event, Question):
            peer.front.answer(event, Begun(event.request.id, 0.0))
    peer.ask(Describe(99))
    while not isinstance(peer.answer()[0], Described):
        pass


def test_a_vanished_client_is_counted_and_others_are_served(peer: Peer) -> None:
    entered = peer.enter()
    gone, peer.socket = peer.socket, peer.connect()
    monitor = peer.front.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    gone.close(linger=0)
    assert monitor.poll(5000), "the front never saw the client leave"
    peer.front.socket.disable_monitor()
    monitor.close(linger=0)
    peer.enter(2)  # reading lets the socket notice the closed pipe
    peer.front.reply(reply_to(entered.key))
    assert peer.front.vanished == 1
    peer.enter(3)


def test_a_message_over_the_limit_costs_its_sender_the_connection_only() -> None:
    peer = Peer(max_message_bytes=1000)
    other = peer.connect()
    peer.socket.send_multipart([encode(Infer(1, "chain")), bytes(2000)])
    peer.socket, big = other, peer.socket
    peer.enter(2)
    big.close(linger=0)
    peer.close()


def test_equal_path_codes_of_two_leaf_tasks_name_their_own_variants() -> None:
    fork = Pipeline(
        name="fork",
        slo_s=0.2,
        tasks=(
            Task("a", (Variant("a0", 1.0, ROW, {"b": 1.0, "c": 1.0}),), entry=1.0),
            Task("b", (Variant("b0", 1.0, ROW), Variant("b1", 0.5, ROW)), parent="a"),
            Task("c", (Variant("c0", 1.0, ROW),), parent="a"),
        ),
        leaf_weights={"b": 0.5, "c": 0.5},
    )
    path = fork.extend(fork.extend(0, 0), 0)
    effect = Reply(1, 1, Outcome.OK, 0.1, 1.0, [Served(1, 1, path, 2), Served(2, 3, path, 1)], 0, "")
    assert PathNames(fork).served(effect) == [["a0", "b0"], ["a0", "b0"], ["a0", "c0"]]
