"""From asyncio to the front protocol: one DEALER socket watched by the event loop. Owns which coroutine waits for which
answer; must not know HTTP, nor what a request is about."""

from __future__ import annotations

import asyncio

import zmq

from loki_rl.serving import parts
from loki_rl.serving.client import ClientError, Inference, read_response
from loki_rl.serving.mailbox import readable
from loki_rl.serving.protocol import (
    BeginRun,
    Begun,
    Cancel,
    Describe,
    Described,
    Infer,
    LedgerRead,
    ReadLedger,
    ReadState,
    Refused,
    Request,
    Response,
    StateRead,
    encode,
)
from loki_rl.serving.state import PlaneState
from loki_rl.serving.wire import MAX_PARTS

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
# A lost wake-up costs at most this much, instead of a hang.
_FALLBACK_S = 0.1
_BURST = 64
_QUESTION_S = 3.0
# Beyond deadline and grace, an answer may spend this long on its way before the gateway counts as gone.
_PATIENCE_S = 1.0


class GatewayGoneError(RuntimeError):
    """The gateway node is not there or does not answer."""


class Bridge:
    """Made and used inside one event loop. zmq.asyncio would cost three times as much per request."""

    def __init__(self, endpoint: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        # No connection: fail at once rather than queue for a gateway that may never come.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._socket.setsockopt(zmq.SNDHWM, 100_000)
        self._socket.setsockopt(zmq.RCVHWM, 100_000)
        self._socket.connect(endpoint)
        self._waiting: dict[int, asyncio.Future[Inference | Response]] = {}
        self._next_id = 0
        self._pumping: asyncio.Handle | None = None
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._pump)
        self._timer = self._loop.call_later(_FALLBACK_S, self._tick)
        self._description: Described | None = None

    def close(self) -> None:
        self._timer.cancel()
        if self._pumping is not None:
            self._pumping.cancel()
        self._loop.remove_reader(self._fd)
        for future in self._waiting.values():
            future.cancel()
        self._socket.close(linger=0)
        self._context.term()

    async def connected(self, limit_s: float) -> bool:
        """Wait for the first connection, at most this long."""
        deadline = self._loop.time() + limit_s
        while not self._socket.poll(0, zmq.POLLOUT):
            if self._loop.time() >= deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    def take_id(self) -> int:
        self._next_id += 1
        return self._next_id

    async def infer(self, request: Infer, payload: bytes | None) -> Inference | Refused:
        """request: with an id from `take_id`."""
        described = await self.description()
        limit_s = (request.timeout_s or described.slo_s) + described.grace_s + _PATIENCE_S
        answer = await self._ask(request, payload, limit_s)
        if isinstance(answer, Inference | Refused):
            return answer
        raise GatewayGoneError("the gateway's answer to an inference is not one")

    def cancel(self, id: int) -> None:
        """Nobody waits any more; the answer still comes, as 'cancelled'."""
        try:
            self._send(Cancel(id))
        except GatewayGoneError:
            return

    async def description(self) -> Described:
        """What is served, asked for once (so `ready` is that of then)."""
        if self._description is None:
            answer = await self._ask(Describe(self.take_id()), None, _QUESTION_S)
            if not isinstance(answer, Described):
                raise GatewayGoneError("the gateway cannot say what it serves")
            self._description = answer
        return self._description

    async def begin_run(self) -> float:
        answer = await self._ask(BeginRun(self.take_id()), None, _QUESTION_S)
        if not isinstance(answer, Begun):
            raise GatewayGoneError("the gateway cannot begin a run")
        return answer.origin_s

    async def ledger(self) -> bytes:
        answer = await self._ask(ReadLedger(self.take_id()), None, _QUESTION_S)
        if not isinstance(answer, LedgerRead):
            raise GatewayGoneError("the gateway cannot give its ledger")
        return answer.data

    async def ready(self) -> bool:
        """Whether every task has a warm variant now, and the server is not about to stop."""
        return (await self.state()).ready

    async def state(self) -> PlaneState:
        answer = await self._ask(ReadState(self.take_id()), None, _QUESTION_S)
        if not isinstance(answer, StateRead):
            raise GatewayGoneError("the gateway cannot tell the plane's state")
        return answer.state

    async def _ask(self, request: Request, payload: bytes | None, limit_s: float) -> Inference | Response:
        future: asyncio.Future[Inference | Response] = self._loop.create_future()
        self._waiting[request.id] = future
        try:
            self._send(request, payload)
            async with asyncio.timeout(limit_s):
                return await future
        except TimeoutError:
            raise GatewayGoneError("the gateway does not answer") from None
        finally:
            del self._waiting[request.id]

    def _send(self, request: Request, payload: bytes | None = None) -> None:
        try:
            self._socket.send(encode(request), _NOBLOCK if payload is None else _MORE)
        except zmq.Again:
            raise GatewayGoneError("the gateway is not there") from None
        if payload is not None:
            self._socket.send(payload, _NOBLOCK, copy=False)
        # The descriptor is edge-triggered and sending consumes the edge: look again once this step of the loop is over.
        if self._pumping is None:
            self._pumping = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Read until nothing is left, at most a burst at a time so that others of the loop get their turn."""
        self._pumping = None
        for _ in range(_BURST):
            # Half of all looks find nothing, and asking costs less than the exception that would say so.
            if not readable(self._socket):
                return
            self._deliver(*parts.receive(self._socket, 1, MAX_PARTS))
        self._pumping = self._loop.call_soon(self._pump)

    def _deliver(self, head: list[bytes], outputs: list[zmq.Frame]) -> None:
        try:
            response = read_response(head, outputs)
        except ClientError:
            return
        future = self._waiting.get(response.id)
        if future is not None and not future.done():
            future.set_result(response)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_FALLBACK_S, self._tick)
        if self._pumping is None:
            self._pump()
