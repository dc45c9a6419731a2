"""From asyncio to the front protocol: a connection watched by the event loop."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import zmq

from loki_rl.serving.gateway.connection import LOST, PATIENCE_S, Connection, GatewayGoneError, Inference, Lost, Received
from loki_rl.serving.state import PlaneState
from loki_rl.serving.transport import protocol
from loki_rl.serving.transport.shared_memory import GATEWAY_KEEPS, NOWHERE, SharedMemory

# A lost wake-up costs at most this much, instead of a hang.
_FALLBACK_S = 0.1
_BURST = 64
_QUESTION_S = 3.0
# Probes may be many, and each question is one to all routers.
_FRESH_S = 0.2

T = TypeVar("T")
Future = asyncio.Future[Inference | protocol.Response]


class AsyncClient:
    """Made and used inside one event loop, on the plane's host. zmq.asyncio would cost three times as much per request.
    leaving: the plane is about to stop, as far as its last answer told. memory: where it takes large tensors."""

    def __init__(self, endpoint: str) -> None:
        self.leaving = False
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection = Connection(self._context, endpoint)
        self._losses = 0
        self._waiting: dict[int, Future] = {}
        self._pumping: asyncio.Handle | None = None
        self._fds = [handle.fileno() for handle in self._connection.handles]
        for fd in self._fds:
            self._loop.add_reader(fd, self._pump)
        self._timer = self._loop.call_later(_FALLBACK_S, self._tick)
        self._description: protocol.Described | None = None
        self.memory = NOWHERE
        self._probe = asyncio.Lock()
        self._readiness = ""
        self._fresh_until = 0.0

    def close(self) -> None:
        self._timer.cancel()
        if self._pumping is not None:
            self._pumping.cancel()
        for fd in self._fds:
            self._loop.remove_reader(fd)
        for future in self._waiting.values():
            future.cancel()
        self._connection.close()
        self._context.term()

    async def connected(self, limit_s: float) -> bool:
        """Wait for the first connection, at most this long."""
        deadline = self._loop.time() + limit_s
        while not self._connection.found:
            if self._loop.time() >= deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    def take_id(self) -> int:
        return self._connection.take_id()

    async def infer(self, request: protocol.Infer, payload: bytes | None) -> Inference | protocol.Refused:
        """request: with an id from `take_id`. It is cancelled if nobody waits for it any more. Raises GatewayGoneError."""
        described = await self.description()
        limit_s = (request.timeout_s or described.slo_s) + described.grace_s + PATIENCE_S
        future = self._send(request, payload)
        del payload  # it is long before the answer comes
        answer = await self._answer(request.id, future, limit_s)
        if isinstance(answer, Inference | protocol.Refused):
            return answer
        raise GatewayGoneError("the gateway's answer to an inference is not one")

    def tell(self, word: protocol.Turned) -> None:
        """Raises GatewayGoneError."""
        self._connection.tell(word)
        self._look_soon()

    def cancel(self, id: int) -> None:
        """Nobody wants the result any more; the answer still comes, as 'cancelled'."""
        self._connection.cancel(id)
        self._look_soon()

    async def description(self) -> protocol.Described:
        """What is served, asked for once per gateway (so `ready` is that of then)."""
        if self._description is None:
            self._description = await self._question(protocol.Describe(self.take_id()), protocol.Described)
            self.memory = SharedMemory(self._description.memory)
        return self._description

    async def begin_run(self) -> float:
        return (await self._question(protocol.BeginRun(self.take_id()), protocol.Begun)).origin_s

    async def ledger(self) -> bytes:
        return (await self._question(protocol.ReadLedger(self.take_id()), protocol.LedgerRead)).data

    async def readiness(self) -> str:
        """Why clients should not come, as it was at most 0.2 s ago; empty if they should."""
        async with self._probe:
            if self._loop.time() >= self._fresh_until:
                answer = await self._question(protocol.ReadReadiness(self.take_id()), protocol.ReadinessRead)
                self._readiness = answer.reason
                self._fresh_until = self._loop.time() + _FRESH_S
            return self._readiness

    async def state(self) -> PlaneState:
        return (await self._question(protocol.ReadState(self.take_id()), protocol.StateRead)).state

    async def _question(self, request: protocol.Request, kind: type[T]) -> T:
        answer = await self._answer(request.id, self._send(request, None), _QUESTION_S)
        if not isinstance(answer, kind):
            raise GatewayGoneError(f"the gateway does not answer {type(request).__name__} as it should")
        return answer

    def _send(self, request: protocol.Request, payload: bytes | None) -> Future:
        """Raises GatewayGoneError."""
        try:
            self._connection.send(request, payload)
        except GatewayGoneError:
            if payload is not None:
                self.memory.free(payload, GATEWAY_KEEPS)
            raise
        self._look_soon()
        self._waiting[request.id] = future = self._loop.create_future()
        return future

    async def _answer(self, id: int, future: Future, limit_s: float) -> Inference | protocol.Response:
        try:
            async with asyncio.timeout(limit_s):
                return await future
        except TimeoutError:
            raise GatewayGoneError("the gateway does not answer") from None
        finally:
            del self._waiting[id]
            if not future.done() or future.cancelled():
                self._connection.give_up(id)
                self._look_soon()

    def _look_soon(self) -> None:
        """Descriptors are edge-triggered and sending consumes the edge: look again once this step of the loop is over."""
        if self._pumping is None:
            self._pumping = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Read until nothing is left, about a burst at a time so that others of the loop get their turn."""
        self._pumping = None
        received = self._connection.receive(_BURST)
        if self._losses != self._connection.losses:
            self._forget()
        for response in received:
            self._deliver(response)
        if len(received) >= _BURST:
            self._look_soon()

    def _forget(self) -> None:
        """What the former gateway told need not be true of the next."""
        self._losses = self._connection.losses
        self._description = None
        self._fresh_until = 0.0
        self.leaving = False

    def _deliver(self, response: Received) -> None:
        if isinstance(response, Inference | protocol.ReadinessRead):
            self.leaving = response.leaving
        future = self._waiting.get(response.id)
        if future is None or future.done():
            return
        if isinstance(response, Lost):
            future.set_exception(GatewayGoneError(LOST))
        else:
            future.set_result(response)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_FALLBACK_S, self._tick)
        if self._pumping is None:
            self._pump()
