"""A gRPC front end that tests share, over what the scripted gateway says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc as stubs

from tests.serving.edge.rpc_site import Site


@pytest.fixture(scope="module")
def rpc_site(scripted: Any) -> Iterator[Site]:
    running = Site(scripted.endpoint)
    yield running
    running.close()


@pytest.fixture
def stub(rpc_site: Site, responder: Any) -> Iterator[stubs.GRPCInferenceServiceStub]:  # noqa: ARG001  (what is behind it is new)
    """For what the client library would not send."""
    with grpc.insecure_channel(rpc_site.url) as channel:
        yield stubs.GRPCInferenceServiceStub(channel)
