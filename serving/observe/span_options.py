"""What of a plane is traced, and where it goes. Without OpenTelemetry, which only a plane that is traced needs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

from msgspec import Struct

from loki_rl.errors import UserError
from loki_rl.options import Fraction, Help
from loki_rl.serving.transport.addresses import read_address

NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


class SpanError(UserError):
    """A plane cannot be traced as asked; the message says why and what to do."""


class SpanOptions(Struct, frozen=True):
    """Traces of requests. plane: a number that tells this plane's requests from those of others, 53 bits."""

    endpoint: Annotated[str, Help("OTLP collector for traces of requests, as http://127.0.0.1:4318.", "--otlp")] = ""
    ratio: Annotated[Fraction, Help("Share of the requests that are traced.", "--trace-ratio")] = 1.0
    plane: int = 0


def check_spans(options: SpanOptions) -> None:
    """Raise SpanError where these options ask for what cannot be."""
    if not options.endpoint:
        return
    found = read_address(options.endpoint)
    if found.scheme not in ("http", "https") or not found.host:
        raise SpanError(f"traces go to an OTLP collector by HTTP, as http://127.0.0.1:4318, not to '{options.endpoint}'")
    if not 0 <= options.ratio <= 1:
        raise SpanError(f"the share of requests that are traced must be 0 to 1, not {options.ratio:g}")
    if not all(map(_installed, NEEDED)):
        raise SpanError("traces need the extra loki-rl[otel]; install it, or leave the collector out")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
