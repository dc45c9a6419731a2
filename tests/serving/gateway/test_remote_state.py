"""Where states of a plane come from."""

from __future__ import annotations

from typing import Any

import pytest

from loki_rl.serving.gateway.client import Client, ClientError
from loki_rl.serving.gateway.remote_state import StateError, source
from loki_rl.serving.transport.addresses import AddressError
from tests.serving.site import Site


def test_native_clients_give_the_state(responder: Any) -> None:
    with source(responder.endpoint) as ask:
        assert ask().requests.arrivals == 10


def test_http_gives_the_state(site: Site) -> None:
    with source(f"http://{site.url}") as ask:
        state = ask()
    assert state.control is not None
    assert state.control.plan is not None
    assert state.control.plan.mode == "hardware"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "http://x:99999", "http://x:y", "http://[::1", "http://x:80/v2"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(AddressError, match="is not http://HOST:PORT"), source(url):
        pass


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(StateError, match=r"nobody answers at http://127\.0\.0\.1:9"), source("http://127.0.0.1:9") as ask:
        ask()
    alone = Site("tcp://127.0.0.1:9")
    with pytest.raises(StateError, match="answered with status 503"), source(f"http://{alone.url}") as ask:
        ask()
    alone.close()


def test_a_native_gateway_that_is_not_there_is_a_client_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client.__init__, "__defaults__", (0.01, None))
    with pytest.raises(ClientError, match="no answer"), source("tcp://127.0.0.1:9") as ask:
        ask()
