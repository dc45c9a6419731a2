"""Native client for users: one pipeline behind one endpoint, without HTTP. Owns its requests in flight; must not know how
they are served. One thread per client."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import zmq
from msgspec import Struct

from loki_rl.serving import parts
from loki_rl.serving.protocol import (
    NO_ID,
    VERSION,
    Answer,
    BeginRun,
    Begun,
    Cancel,
    Describe,
    Described,
    Infer,
    LedgerRead,
    ReadLedger,
    ReadState,
    Refusal,
    Refused,
    Request,
    Response,
    RunLedger,
    StateRead,
    VersionError,
    decode_response,
    encode,
)
from loki_rl.serving.state import PlaneState
from loki_rl.serving.wire import MAX_PARTS, WireError, pack, unpack

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
# Beyond deadline and grace, an answer may spend this long on its way before the gateway counts as gone.
_PATIENCE_S = 1.0

Array = npt.NDArray[Any]
T = TypeVar("T")


class ClientError(RuntimeError):
    """The gateway refused the request, does not answer, or is not what was expected; the message says which."""


class Inference(Struct):
    """How a request ended (fields as in protocol.Answer) and one array per finished leaf, in the order of `served`."""

    id: int
    outcome: str
    latency_s: float
    accuracy: float
    served: list[list[str]]
    missing: int
    reason: str
    outputs: list[Array]
    slack_s: float = 0.0
    retry_s: float = 0.0
    refusal: Refusal | None = None


class Client:
    """`with Client("tcp://127.0.0.1:5555") as client: client.infer(picture)`; timeouts raise ClientError."""

    def __init__(self, endpoint: str, timeout_s: float = 5.0) -> None:
        """timeout_s: for questions other than inference. Nothing is sent yet; an absent gateway shows at the first call."""
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.linger = 0
        self.socket = self._context.socket(zmq.DEALER)
        # A fuse only: the gateway's limit on requests in flight is the flow control.
        self.socket.setsockopt(zmq.SNDHWM, 200_000)
        self.socket.setsockopt(zmq.RCVHWM, 200_000)
        self._description: Described | None = None
        self._next_id = 0
        self._arrived: list[Inference | Refused] = []
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ClientError(f"cannot connect to '{endpoint}': {error}") from None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close(linger=0)
        self._context.term()

    # -- inference ----------------------------------------------------------------------------------------------------

    def infer(
        self,
        payload: Array | bytes | None = None,
        timeout_s: float | None = None,
        *,
        min_accuracy: float = 0.0,
        priority: int = 0,
    ) -> Inference:
        """Send one request and wait for its answer, whatever the outcome. bytes: an encoded picture. None: no payload
        (emulated engines). timeout_s: end-to-end deadline, default the pipeline's SLO. The rest: as in protocol.Infer."""
        served = self.description
        packed = None if payload is None else pack_payload(payload)
        id = self.submit_packed(packed, timeout_s, min_accuracy=min_accuracy, priority=priority)
        limit_s = (timeout_s or served.slo_s) + served.grace_s + _PATIENCE_S
        answer = self._await(id, limit_s)
        if isinstance(answer, Inference):
            return answer
        raise ClientError(f"'{self.endpoint}' answered {type(answer).__name__} to an inference")

    def submit(self, payload: Array | bytes | None = None, timeout_s: float | None = None) -> int:
        """Send one request and return its id at once; `poll` gives the answer."""
        return self.submit_packed(None if payload is None else pack_payload(payload), timeout_s)

    def submit_packed(
        self, payload: bytes | None, timeout_s: float | None = None, *, min_accuracy: float = 0.0, priority: int = 0
    ) -> int:
        """As submit, for a payload that `pack_payload` made before."""
        id = self._take_id()
        self._send(Infer(id, self.description.pipeline, timeout_s or 0.0, min_accuracy, priority), payload)
        return id

    def cancel(self, id: int) -> None:
        """Wait no more for a request; it is answered with outcome 'cancelled' unless it has ended already."""
        self._send(Cancel(id))

    def poll(self, timeout_s: float = 0.0) -> list[Inference | Refused]:
        """Everything that has arrived for submitted requests; waits up to timeout_s for the first."""
        self._read()
        if not self._arrived and timeout_s > 0 and self.socket.poll(round(1000 * timeout_s)):
            self._read()
        arrived, self._arrived = self._arrived, []
        return arrived

    # -- questions ----------------------------------------------------------------------------------------------------

    @property
    def description(self) -> Described:
        """What is served, asked for once (so `ready` is that of then)."""
        if self._description is None:
            self._description = self.describe()
        return self._description

    def describe(self, timeout_s: float | None = None) -> Described:
        return self._call(Describe(self._take_id()), Described, timeout_s)

    def wait_ready(self, timeout_s: float = 60.0) -> Described:
        """Return when every task has a warm variant; raises ClientError after timeout_s."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                described = self.describe(min(1.0, left))
            except ClientError:
                continue
            if described.ready:
                return described
            # The gateway answers in microseconds: asking without a pause would take its time away from requests.
            time.sleep(min(0.02, left))
        raise ClientError(f"'{self.endpoint}' was not ready within {timeout_s:g} s")

    def begin_run(self, origin_s: float | None = None) -> float:
        """Empty the gateway's ledger; returns trace time 0 on the gateway's monotonic clock."""
        return self._call(BeginRun(self._take_id(), origin_s), Begun).origin_s

    def ledger(self) -> RunLedger:
        """What the gateway counted since the run began."""
        data = self._call(ReadLedger(self._take_id()), LedgerRead).data
        return msgspec.json.decode(data, type=RunLedger)

    def state(self) -> PlaneState:
        """The plane now: requests, stages, plan and workers."""
        return self._call(ReadState(self._take_id()), StateRead).state

    # -- messages -----------------------------------------------------------------------------------------------------

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _call(
        self, request: Describe | BeginRun | ReadLedger | ReadState, kind: type[T], timeout_s: float | None = None
    ) -> T:
        self._send(request)
        answer = self._await(request.id, self._timeout_s if timeout_s is None else timeout_s)
        if not isinstance(answer, kind):
            raise ClientError(f"'{self.endpoint}' answered {type(answer).__name__} to {type(request).__name__}")
        return answer

    def _await(self, id: int, limit_s: float) -> Inference | Response:
        """The response with this id. Those of submitted requests that come first are kept for `poll`."""
        deadline = time.monotonic() + limit_s
        while (left := deadline - time.monotonic()) > 0:
            if not self.socket.poll(max(1, round(1000 * left))):
                break
            response = self._receive()
            if isinstance(response, Refused) and response.id in (id, NO_ID):
                raise ClientError(f"refused: {response.message}")
            if response is not None and response.id == id:
                return response
            self._keep(response)
        raise ClientError(f"no answer from '{self.endpoint}' within {limit_s:g} s")

    def _read(self) -> None:
        while (response := self._receive()) is not None:
            self._keep(response)

    def _keep(self, response: Inference | Response | None) -> None:
        """Late answers to questions that were given up are let go."""
        if isinstance(response, Inference | Refused):
            self._arrived.append(response)

    def _send(self, request: Request, payload: bytes | None = None) -> None:
        try:
            self.socket.send(encode(request), _NOBLOCK if payload is None else _MORE)
            if payload is not None:
                self.socket.send(payload, _NOBLOCK, copy=False)
        except zmq.Again:
            raise ClientError(f"'{self.endpoint}' takes no more requests") from None

    def _receive(self) -> Inference | Response | None:
        try:
            return read_response(*parts.receive(self.socket, 1, MAX_PARTS))
        except zmq.Again:
            return None


def pack_payload(payload: Array | bytes) -> bytes:
    """The tensor frame of a payload; bytes are an encoded picture. Raises ClientError for arrays that cannot be sent."""
    try:
        return pack(np.frombuffer(payload, np.uint8) if isinstance(payload, bytes) else payload)
    except WireError as error:
        raise ClientError(str(error)) from None


def read_response(head: list[bytes], outputs: list[zmq.Frame]) -> Inference | Response:
    """The message in these parts. Raises ClientError if the gateway speaks another protocol."""
    try:
        response = decode_response(head[0])
        if not isinstance(response, Answer):
            return response
        return Inference(**msgspec.structs.asdict(response), outputs=[unpack(frame) for frame in outputs])
    except VersionError:
        raise ClientError(f"the gateway does not speak version {VERSION} of the front protocol") from None
    except (msgspec.DecodeError, WireError) as error:
        raise ClientError(f"the gateway's answer cannot be read: {error}") from None
