"""Native client for users: one pipeline behind one endpoint, without HTTP. One thread per client."""

from __future__ import annotations

import time
from contextlib import suppress
from math import inf, nan
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import numpy as np
import zmq

from loki_rl.core.requests.items import MAX_PRIORITY
from loki_rl.serving.gateway.connection import PATIENCE_S, Connection, Lost, Received
from loki_rl.serving.gateway.connection import Array as Array
from loki_rl.serving.gateway.connection import ClientError as ClientError
from loki_rl.serving.gateway.connection import GatewayGoneError as GatewayGoneError
from loki_rl.serving.gateway.connection import Inference as Inference
from loki_rl.serving.gateway.owner import Owner, alone
from loki_rl.serving.security.key_folder import ClientKeys
from loki_rl.serving.state import PlaneState
from loki_rl.serving.transport import protocol
from loki_rl.serving.transport.shared_memory import GATEWAY_KEEPS, NOWHERE, SharedMemory

_BURST = 64
# Of one wait for what comes next.
_LONGEST_S = 3600.0
# A payload and what is said of it are one message.
MAX_PAYLOAD_BYTES = protocol.MAX_MESSAGE_BYTES - 4096

T = TypeVar("T")


class Client:
    """`with Client("tcp://127.0.0.1:5555") as client: client.infer(picture)`; timeouts raise ClientError. Of a plane
    that asks for keys: `Client(endpoint, keys="FOLDER")`, with the folder of `loki-rl keys client`.

    A gateway that is lost ends what it had in flight at once: an inference as 'failed', with the reason, a question with
    ClientError. Until it is back, requests raise ClientError at once; the client finds it again by itself. So does whatever
    is asked of a client that is closed, that another thread is using, or that a process inherited by fork.
    """

    def __init__(self, endpoint: str, timeout_s: float = 5.0, keys: str | Path | ClientKeys | None = None) -> None:
        """endpoint: tcp://HOST:PORT, or ipc://PATH on the plane's own host. timeout_s: longest wait for what is no inference
        [s]. keys: a folder of keys, or what was read of one. Nothing is sent yet; an absent gateway shows at the first call.
        Raises ClientError for an endpoint that is none, CurveKeyError for keys that cannot be used."""
        if keys is not None and not isinstance(keys, ClientKeys):
            keys = ClientKeys(Path(keys))
        self.endpoint = endpoint
        self.owner = Owner()
        self._timeout_s = timeout_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.linger = 0
        self._description: protocol.Described | None = None
        self._arrived: list[Inference | protocol.Refused] = []
        self._memory = NOWHERE
        try:
            self._connection = Connection(self._context, endpoint, keys)
        except (zmq.ZMQError, TypeError) as error:
            self._context.term()
            raise ClientError(f"cannot connect to '{endpoint}': {error}; it is tcp://HOST:PORT or ipc://PATH") from None
        self._poller = zmq.Poller()
        for handle in self._connection.handles:
            self._poller.register(handle, zmq.POLLIN)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the sockets; requests in flight are cancelled. Once is enough; a fork leaves it to its parent."""
        if not (self.owner.closed or self.owner.elsewhere):
            self._close()

    @alone
    def _close(self) -> None:
        self.owner.closed = True
        self._connection.close()
        self._context.term()

    @alone
    def filenos(self) -> list[int]:
        """Descriptors that become readable when `poll` may have something; look with `poll(0)` before waiting for them."""
        return [handle.fileno() for handle in self._connection.handles]

    @property
    def unasked(self) -> int:
        """Answers to requests that had ended for this client: it had one, had given up, or had lost their gateway."""
        return self._connection.unasked

    # -- inference ----------------------------------------------------------------------------------------------------

    @alone
    def infer(
        self,
        payload: Array | bytes | None = None,
        timeout_s: float | None = None,
        *,
        min_accuracy: float = 0.0,
        priority: int = 0,
    ) -> Inference:
        """Send one request and wait for its answer, whatever the outcome.

        payload: an array of the type and shape that `description.input` says, without a batch axis; bytes: an encoded
        picture; None: none (emulated engines). timeout_s: end-to-end deadline [s], the pipeline's SLO if None. min_accuracy:
        0..1, of every path of models that serves it. priority: 1 is the highest, 0 the default. A request whose answer does
        not come in time is cancelled. Raises ClientError for what cannot be sent, where no gateway is, and where no
        answer comes.
        """
        served, timeout_s = self.description, _number("timeout_s", timeout_s or 0.0, protocol.MAX_TIMEOUT_S)
        id = self._submit(self._frame(payload), timeout_s, min_accuracy, priority)
        limit_s = (timeout_s or served.slo_s) + served.grace_s + PATIENCE_S
        answer = self._await(id, limit_s, limit_s)
        if isinstance(answer, Inference):
            return answer
        raise ClientError(f"'{self.endpoint}' answered {type(answer).__name__} to an inference")

    @alone
    def submit(self, payload: Array | bytes | None = None, timeout_s: float | None = None) -> int:
        """Send one request and return its id at once; `poll` gives the answer. payload, timeout_s, and what it raises: as in
        `infer`."""
        return self._submit(self._frame(payload), timeout_s)

    @alone
    def submit_packed(
        self, payload: bytes | None, timeout_s: float | None = None, *, min_accuracy: float = 0.0, priority: int = 0
    ) -> int:
        """As submit, for a payload that `pack_payload` made before; it may be sent again. The rest is as in `infer`."""
        return self._submit(payload, timeout_s, min_accuracy, priority)

    def _submit(self, payload: bytes | None, timeout_s: float | None, min_accuracy: float = 0.0, priority: int = 0) -> int:
        id = self._connection.take_id()
        limit_s = _number("timeout_s", timeout_s or 0.0, protocol.MAX_TIMEOUT_S)
        floor, first = _number("min_accuracy", min_accuracy, 1), _number("priority", priority, MAX_PRIORITY)
        if first % 1:
            raise ClientError(f"priority must be a whole number, not {priority}")
        request = protocol.Infer(id, self.description.pipeline, limit_s, floor, int(first))
        try:
            self._connection.send(request, payload)
        except GatewayGoneError:
            if payload is not None:
                self._memory.free(payload, GATEWAY_KEEPS)
            raise GatewayGoneError(f"no gateway is at '{self.endpoint}' now") from None
        return id

    def _frame(self, payload: Array | bytes | None) -> bytes | None:
        """What is sent of a payload, once: a large one is left in the plane's memory. Raises ClientError."""
        if payload is None:
            return None
        self._memory = SharedMemory(self.description.memory if self.endpoint.startswith("ipc://") else "")
        return pack_payload(payload, self._memory)

    @alone
    def cancel(self, id: int) -> None:
        """Want the result of the request `id` no more; it is answered with outcome 'cancelled' unless it has ended
        already."""
        self._connection.cancel(id)

    @alone
    def poll(self, timeout_s: float = 0.0) -> list[Inference | protocol.Refused]:
        """Everything that has arrived for submitted requests; waits up to timeout_s [s] for the first."""
        self._keep(self._connection.receive(_BURST))
        deadline = time.monotonic() + timeout_s
        while not self._arrived and (left := deadline - time.monotonic()) > 0:
            self._keep(self._wait(left))
        while found := self._connection.receive(_BURST):
            self._keep(found)
        arrived, self._arrived = self._arrived, []
        return arrived

    # -- questions ----------------------------------------------------------------------------------------------------

    @property
    @alone
    def description(self) -> protocol.Described:
        """What is served, asked for once (so `ready` is that of then). Raises ClientError as `describe` does."""
        if self._description is None:
            self._description = self.describe()
        return self._description

    def describe(self, timeout_s: float | None = None) -> protocol.Described:
        """What is served, and whether it is ready. timeout_s: longest wait [s], the client's own if None. Raises ClientError
        where no answer comes."""
        return self._call(protocol.Describe(self._connection.take_id()), protocol.Described, timeout_s)

    @alone
    def wait_ready(self, timeout_s: float = 60.0) -> protocol.Described:
        """Return when every task has a warm variant; raises ClientError after timeout_s [s]."""
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
        """Empty the gateway's ledger; returns trace time 0 on the gateway's monotonic clock [s]: origin_s, now if None.
        Raises ClientError where no answer comes."""
        return self._call(protocol.BeginRun(self._connection.take_id(), origin_s), protocol.Begun).origin_s

    def ledger(self) -> protocol.RunLedger:
        """What the gateway counted since the run began. Raises ClientError where no answer comes."""
        data = self._call(protocol.ReadLedger(self._connection.take_id()), protocol.LedgerRead).data
        return msgspec.json.decode(data, type=protocol.RunLedger)

    def state(self) -> PlaneState:
        """The plane now: requests, stages, plan and workers. Raises ClientError where no answer comes."""
        return self._call(protocol.ReadState(self._connection.take_id()), protocol.StateRead).state

    # -- messages -----------------------------------------------------------------------------------------------------

    @alone
    def _call(self, request: protocol.Query | protocol.Describe, kind: type[T], timeout_s: float | None = None) -> T:
        """Waits for a gateway too, so that the first call may come before the connection."""
        limit_s = _number("timeout_s", self._timeout_s if timeout_s is None else timeout_s, inf)
        deadline = time.monotonic() + limit_s
        while not self._connection.found:
            if (left := deadline - time.monotonic()) <= 0:
                raise self._silence(limit_s)
            self._sleep(left)
        self._connection.send(request)
        answer = self._await(request.id, max(0.0, deadline - time.monotonic()), limit_s)
        if not isinstance(answer, kind):
            raise ClientError(f"'{self.endpoint}' answered {type(answer).__name__} to {type(request).__name__}")
        return answer

    def _await(self, id: int, left_s: float, limit_s: float) -> Inference | protocol.Response:
        """The answer to one request; those to others are kept for poll. Raises ClientError if it was refused or lost, or
        does not come within left_s, which is what is left of limit_s."""
        deadline = time.monotonic() + left_s
        found = self._connection.receive(_BURST)
        while True:
            self._keep([response for response in found if response.id not in (id, protocol.NO_ID)])
            for response in found:
                if response.id in (id, protocol.NO_ID):
                    return self._taken(response)
            left = deadline - time.monotonic()
            if left <= 0:
                self._connection.give_up(id)
                raise self._silence(limit_s)
            found = self._wait(left)

    def _taken(self, response: Received) -> Inference | protocol.Response:
        if isinstance(response, protocol.Refused):
            raise ClientError(f"refused: {response.message}")
        if isinstance(response, Lost):
            raise GatewayGoneError(f"the gateway at '{self.endpoint}' was lost before it answered")
        return response

    def _wait(self, longest_s: float) -> list[Received]:
        """What comes next, as soon as something does."""
        self._sleep(longest_s)
        return self._connection.receive(_BURST)

    def _sleep(self, longest_s: float) -> None:
        """Until something comes."""
        self._poller.poll(max(1, round(1000 * min(longest_s, _LONGEST_S))))

    def _keep(self, received: list[Received]) -> None:
        """Late answers to questions that were given up are let go."""
        self._arrived += [response for response in received if isinstance(response, Inference | protocol.Refused)]

    def _silence(self, limit_s: float) -> ClientError:
        if self._connection.denied:
            return ClientError(f"'{self.endpoint}' let nobody in: it asks for other keys than these (see docs/security.md)")
        return ClientError(f"no answer from '{self.endpoint}' within {limit_s:g} s")


def pack_payload(payload: Array | bytes, memory: SharedMemory = NOWHERE) -> bytes:
    """The tensor frame of a payload; bytes are an encoded picture. memory: where a large one is left for the plane, which
    then frees it. Raises ClientError for arrays that cannot be sent."""
    if not isinstance(payload, bytes | np.ndarray):
        raise ClientError(
            f"a payload is an array or bytes, not {type(payload).__name__}; numpy.asarray makes arrays of lists"
        )
    try:
        array = np.frombuffer(payload, np.uint8) if isinstance(payload, bytes) else payload
        frame = memory.pack(GATEWAY_KEEPS, array)
    except (ValueError, OverflowError) as error:
        raise ClientError(str(error)) from None
    if len(frame) > MAX_PAYLOAD_BYTES:
        raise ClientError(f"a payload of {len(frame) >> 20} MB cannot be sent; it may have {MAX_PAYLOAD_BYTES >> 20} MB")
    return frame


def _number(name: str, value: object, most: float) -> float:
    """Raises ClientError for what is none from 0 to this."""
    found = nan
    with suppress(TypeError, ValueError, OverflowError):
        found = float(value)  # type: ignore[arg-type]
    if not 0 <= found <= most:
        raise ClientError(f"{name} must be a number from 0 to {most:g}, not {value!r}")
    return found
