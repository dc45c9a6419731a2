"""TLS and API keys of gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs

from loki_rl.serving.security.api_keys import add_key
from loki_rl.serving.security.guards import Guards
from tests.serving.driving import eventually
from tests.serving.edge.rpc_site import Site
from tests.serving.security.certificates import Authority

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    add_key(tmp_path / "keys", "alice")
    return tmp_path / "keys"


@pytest.fixture
def keyed(responder: Any, key_file: Path) -> Iterator[stubs.GRPCInferenceServiceStub]:
    site = Site(responder.endpoint, Guards(api_key_file=str(key_file)))
    with grpc.insecure_channel(site.url) as channel:
        yield stubs.GRPCInferenceServiceStub(channel)
    site.close()


def bearer(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)


def picture() -> Any:
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[3])
    return pb.ModelInferRequest(model_name="reading", inputs=[tensor], raw_input_contents=[b"abc"])


@pytest.mark.parametrize("shown", [(), bearer("x" * 43), bearer(""), (("authorization", "Basic eDp5"),)])
def test_without_a_key_calls_are_unauthenticated(
    keyed: stubs.GRPCInferenceServiceStub, responder: Any, shown: Metadata
) -> None:
    calls = (
        lambda: keyed.ModelInfer(picture(), metadata=shown),
        lambda: list(keyed.ModelStreamInfer(iter([picture()]), metadata=shown)),
        lambda: keyed.ModelMetadata(pb.ModelMetadataRequest(name="reading"), metadata=shown),
        lambda: keyed.ServerMetadata(pb.ServerMetadataRequest(), metadata=shown),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert caught.value.details().startswith("an API key is needed here")
    assert not responder.entered


def test_whoever_shows_a_key_is_served_and_probes_need_none(
    keyed: stubs.GRPCInferenceServiceStub, responder: Any, key_file: Path
) -> None:
    shown = bearer(key_file.read_text().split(":")[1].strip())
    assert keyed.ServerLive(pb.ServerLiveRequest()).live
    assert keyed.ServerReady(pb.ServerReadyRequest()).ready
    assert keyed.ModelInfer(picture(), metadata=shown).model_name == "reading"
    assert len(list(keyed.ModelStreamInfer(iter([picture()] * 2), metadata=shown))) == 2
    assert len(responder.entered) == 3
    second = bearer(add_key(key_file, "bob"))

    def served() -> bool:
        try:
            return bool(keyed.ServerMetadata(pb.ServerMetadataRequest(), metadata=second).name)
        except grpc.RpcError:
            return False

    eventually(served, "the new key is not known")


def test_a_stream_ends_when_its_key_is_taken_out(
    keyed: stubs.GRPCInferenceServiceStub, responder: Any, key_file: Path
) -> None:
    shown = bearer(key_file.read_text().split(":")[1].strip())
    asked: SimpleQueue[Any] = SimpleQueue()
    answers = keyed.ModelStreamInfer(iter(asked.get, None), metadata=shown)
    asked.put(picture())
    assert next(answers).infer_response.model_name == "reading"
    key_file.write_text(f"bob:{'b' * 43}\n")

    def refused() -> bool:
        try:
            return not keyed.ServerMetadata(pb.ServerMetadataRequest(), metadata=shown)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)

    eventually(refused, "the key still counts")
    asked.put(picture())
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    asked.put(None)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert len(responder.entered) == 1


@pytest.mark.parametrize("clients", [False, True])
def test_over_tls(responder: Any, authority: Authority, clients: bool) -> None:
    site = Site(responder.endpoint, authority.guards(clients=clients))
    ca, both = authority.ca.read_bytes(), authority.client().read_bytes()
    own = {"private_key": both, "certificate_chain": both} if clients else {}
    with grpc.secure_channel(site.url, grpc.ssl_channel_credentials(ca, **own)) as channel:
        assert stubs.GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest()).live
    wrong = [grpc.insecure_channel(site.url), grpc.secure_channel(site.url, grpc.ssl_channel_credentials())]
    wrong += [grpc.secure_channel(site.url, grpc.ssl_channel_credentials(ca))] if clients else []
    for one in wrong:
        with one as channel, pytest.raises(grpc.RpcError) as caught:
            stubs.GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    site.close()
