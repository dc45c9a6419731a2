"""gRPC front end of a gateway node: inference.GRPCInferenceService on asyncio, one process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

import grpc
import uvloop
from google.protobuf.message import DecodeError
from msgspec import Struct
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs

from loki_rl.errors import UserError
from loki_rl.serving.edge import front_end, limits, oip, oip_answers, oip_models, rpc_codec
from loki_rl.serving.edge.limits import Refusals
from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.edge.steps import Pace
from loki_rl.serving.gateway.async_client import AsyncClient
from loki_rl.serving.gateway.connection import GatewayGoneError
from loki_rl.serving.security import rpc_guard
from loki_rl.serving.security.api_keys import ApiKeys
from loki_rl.serving.security.guards import Guards
from loki_rl.serving.security.rpc_guard import KEY_WANTED, Doorkeeper
from loki_rl.serving.transport.addresses import bracketed
from loki_rl.serving.transport.protocol import Described, Infer, Refused
from loki_rl.serving.transport.wire import WireError

log = logging.getLogger(__name__)

_CONNECT_S = 0.5
# Time for calls in flight to end once the process is told to stop.
_GRACE_S = 5.0
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
_OPTIONS = (
    ("grpc.max_receive_message_length", limits.MAX_BODY_BYTES),  # also of what is inflated
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", limits.MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", limits.MAX_METADATA_BYTES),
    ("grpc.max_allowed_incoming_connections", limits.MAX_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", round(1000 * limits.HEAD_S)),
    ("grpc.max_connection_idle_ms", round(1000 * limits.CALL_IDLE_S)),
)

Context = Any
M = TypeVar("M", bound=Callable[..., Awaitable[Any]])


class CallError(Exception):
    """A call ends with this status. status: of HTTP, whose meaning the two protocols share. metadata: to go with it."""

    def __init__(self, status: int, sentence: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(sentence)
        self.status = status
        self.metadata = metadata


class Unreadable(Struct):
    """What came instead of a message that is taken."""

    fault: InferError


class Reader(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets methods answer messages that cannot or should not be read; gRPC would tell clients of a Python exception."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        check = rpc_codec.check_size if details.method.endswith("Infer") else rpc_codec.check_small
        return handler and handler._replace(request_deserializer=partial(_read, check, handler.request_deserializer))


def _read(check: Callable[[bytes], None], deserializer: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        check(data)
        return deserializer(data)
    except InferError as fault:
        return Unreadable(fault)
    except DecodeError:
        return Unreadable(InferError(400, rpc_codec.UNREADABLE))


def understood(request: Any) -> Any:
    """Raises InferError for what is no message."""
    if isinstance(request, Unreadable):
        raise request.fault
    return request


def call_error(error: Exception) -> CallError:
    """How a call ends whose method raised this."""
    match error:
        case CallError():
            return error
        case InferError():
            return CallError(error.status, str(error))
        case WireError():
            return CallError(400, str(error))
        case GatewayGoneError():
            return CallError(503, str(error))
    log.error("a call failed", exc_info=error)
    return CallError(500, "the server failed on this request")


def guarded(method: M) -> M:
    """Faults of a method as gRPC statuses."""

    @wraps(method)
    async def call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, understood(request), context)
        except Exception as error:
            fault = self.fault(error)
        code = _CODES.get(fault.status, grpc.StatusCode.INVALID_ARGUMENT)
        return await context.abort(code, str(fault), fault.metadata)

    return call  # type: ignore[return-value]


class RpcFront(stubs.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The methods; those not here answer UNIMPLEMENTED."""

    def __init__(self, client: AsyncClient, keys: ApiKeys | None = None) -> None:
        self.refusals = Refusals()
        self._client = client
        self._pace = Pace()
        self._keeper = None if keys is None else Doorkeeper(keys, lambda: self.refusals.count("keys"))
        self._shares = limits.Shares(limits.MAX_CALLS_EACH)
        # Inferences under way, and the bytes of their messages: gRPC keeps each until its call has ended.
        self._calls = self._held = 0

    def fault(self, error: Exception) -> CallError:
        """How a call ends whose method raised this."""
        if isinstance(error, InferError):
            self.refusals.count(error.reason)
        return call_error(error)

    # -- inference ----------------------------------------------------------------------------------------------------

    @guarded
    async def ModelInfer(self, request: Any, context: Context) -> Any:  # noqa: N802
        return await self._infer(request, context)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:  # noqa: N802
        """One answer per request, in their order; a failed one does not end the stream, a key that was taken out does."""
        async for request in requests:
            if self._keeper is not None and not self._whose(context):
                self.refusals.count("keys")
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, KEY_WANTED)
            try:
                answer = pb.ModelStreamInferResponse(infer_response=await self._infer(understood(request), context))
            except Exception as error:
                answer = pb.ModelStreamInferResponse(error_message=str(self.fault(error)))
                if not isinstance(request, Unreadable):
                    answer.infer_response.model_name, answer.infer_response.id = request.model_name, request.id
            yield answer

    async def _infer(self, request: Any, context: Context) -> Any:
        with self._shares.one(self._whose(context)), self._room(request.ByteSize()):
            described = await self._model(request.model_name, request.model_version)
            oip_models.check_pipeline(described, request.model_name)
            asked = await self._pace.finish(rpc_codec.read_request(request, described), lambda: not context.done())
            if asked is None:
                raise CallError(400, "the call has ended")
            timeout_s = asked.timeout_s or _remaining_s(context)
            parent = _traceparent(context, described)
            wanted = Infer(self._client.take_id(), described.pipeline, timeout_s, asked.min_accuracy, asked.priority, parent)
            answer = await self._client.infer(wanted, oip.take_payload(asked, self._client.memory))
        if isinstance(answer, Refused):
            raise InferError(400, answer.message)
        verdict = oip_answers.verdict(answer)
        if verdict is not None:
            raise CallError(verdict.status, verdict.sentence, rpc_codec.metadata(answer, verdict.retry_after_s))
        return rpc_codec.write_response(answer, asked, described)

    @property
    def interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        return [Reader()] if self._keeper is None else [self._keeper, Reader()]

    def _whose(self, context: Context) -> str:
        """The name of its key, or its address."""
        if self._keeper is not None:
            return self._keeper.owner(context.invocation_metadata())
        return str(context.peer()).rpartition(":")[0]

    @contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """For a message of so many bytes; small ones find some beside those who hoard."""
        if self._calls >= limits.MAX_CALLS:
            raise InferError(429, f"{limits.MAX_CALLS} inferences are under way", "calls")
        if size > limits.MAX_TERMS_BYTES and self._held + size > limits.MAX_HELD_BYTES:
            raise InferError(429, "messages under way hold more memory than there is for them", "memory")
        self._calls, self._held = self._calls + 1, self._held + size
        try:
            yield
        finally:
            self._calls, self._held = self._calls - 1, self._held - size

    async def _model(self, name: str, version: str) -> Described:
        """What is served, if this model and version are among it."""
        return oip_models.check_model(await self._client.description(), name, version)

    # -- models -------------------------------------------------------------------------------------------------------

    async def ServerLive(self, _: Any, __: Context) -> Any:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    @guarded
    async def ServerReady(self, _: Any, __: Context) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=not await self._client.readiness())

    @guarded
    async def ModelReady(self, request: Any, _: Context) -> Any:  # noqa: N802
        await self._model(request.name, request.version)
        return pb.ModelReadyResponse(ready=not await self._client.readiness())

    async def ServerMetadata(self, _: Any, __: Context) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(name=oip_models.NAME, version=version("loki-rl"), extensions=oip_models.EXTENSIONS)

    @guarded
    async def ModelMetadata(self, request: Any, _: Context) -> Any:  # noqa: N802
        described = await self._model(request.name, request.version)
        return rpc_codec.filled(pb.ModelMetadataResponse(), oip_models.metadata(described, request.name))

    @guarded
    async def ModelConfig(self, request: Any, _: Context) -> Any:  # noqa: N802
        described = await self._model(request.name, request.version)
        return rpc_codec.filled(pb.ModelConfigResponse(), {"config": oip_models.config(described, request.name)})

    @guarded
    async def ModelStatistics(self, request: Any, _: Context) -> Any:  # noqa: N802
        if request.name:
            await self._model(request.name, request.version)
        described = await self._client.description()
        rows = oip_models.statistics(described, await self._client.state(), request.name or None)
        return rpc_codec.filled(pb.ModelStatisticsResponse(), {"model_stats": rows})

    @guarded
    async def RepositoryIndex(self, request: Any, _: Context) -> Any:  # noqa: N802
        rows = oip_models.index(await self._client.description(), not await self._client.readiness(), request.ready)
        return rpc_codec.filled(pb.RepositoryIndexResponse(), {"models": rows})

    @guarded
    async def RepositoryModelLoad(self, _: Any, __: Context) -> NoReturn:  # noqa: N802
        raise InferError(400, "models are loaded and unloaded by the plan, not by clients")

    RepositoryModelUnload = RepositoryModelLoad


def _traceparent(context: Context, described: Described) -> str:
    if not described.traced:
        return ""
    return oip.traceparent([str(value) for name, value in context.invocation_metadata() or () if name == "traceparent"])


def _remaining_s(context: Context) -> float:
    """The deadline of the call itself, where the client set one; 0 for none."""
    left = context.time_remaining()
    return 0.0 if left is None or left <= 0 or left > 3600 else float(left)


# -- the process ----------------------------------------------------------------------------------------------------------


async def serve(
    front: str,
    host: str,
    port: int,
    started: Callable[[int], None],
    stop: asyncio.Event,
    shared: bool = False,
    guards: Guards | None = None,
) -> None:
    """Serve until `stop`. started: is told the port. shared: as in `listen`. guards: TLS and keys. Raises OSError if the
    port cannot be had, ApiKeyError or TlsError for files that cannot be used."""
    guards = guards or Guards()
    keys, certificate = guards.keys(), guards.certificate()
    credentials = None if certificate is None else rpc_guard.credentials(certificate)
    client = AsyncClient(front)
    rpcs = RpcFront(client, keys)
    # A stranger's server on the same port must be an error, not a silent sharing of its clients.
    options = [*_OPTIONS, ("grpc.so_reuseport", int(shared))]
    server = grpc.aio.server(interceptors=rpcs.interceptors, options=options, maximum_concurrent_rpcs=2 * limits.MAX_CALLS)
    stubs.add_GRPCInferenceServiceServicer_to_server(rpcs, server)
    try:
        where = f"{bracketed(host)}:{port}"
        bound = server.add_insecure_port(where) if credentials is None else server.add_secure_port(where, credentials)
    except RuntimeError as error:
        client.close()
        raise OSError(str(error)) from None
    await client.connected(_CONNECT_S)
    await server.start()
    started(bound)
    look = asyncio.create_task(_look(rpcs.refusals, client, keys))
    await stop.wait()
    look.cancel()
    await server.stop(_GRACE_S)
    client.close()


async def _look(refusals: Refusals, client: AsyncClient, keys: ApiKeys | None) -> None:
    """After memory and keys, and what the gateway is to be told."""
    memory = limits.Memory()
    while True:
        await asyncio.sleep(limits.LOOK_S)
        memory.look()
        if keys is not None:
            keys.look()
        refusals.tell(client.tell)


async def _until_told(options: argparse.Namespace) -> None:
    stop, where = front_end.stopped(options.tethered), (options.front, options.host, options.port)
    await serve(*where, lambda _: None, stop, shared=options.tethered, guards=front_end.guards(options))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = front_end.arguments("loki_rl.serving.edge.rpc", __doc__, 8001)
    options = parser.parse_args(arguments)
    front_end.begin("grpc", options)
    try:
        uvloop.run(_until_told(options))
    except UserError as error:
        parser.exit(2, f"grpc: {error}\n")
    except (OSError, OverflowError) as error:
        parser.exit(2, f"grpc: cannot listen on {options.host}:{options.port}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
