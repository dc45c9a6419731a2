"""Answers of the Open Inference Protocol v2: how a request ended, as a body and its parameters. Owns their shape and
compression; must not know HTTP routes, nor how a request was served."""

from __future__ import annotations

import gzip
import struct
import zlib
from math import ceil

import msgspec
from msgspec import Struct

from loki_rl.serving.edge.oip import VERSION, InferRequest
from loki_rl.serving.gateway.connection import Inference
from loki_rl.serving.transport.protocol import Described

Json = dict[str, object]

# Below this, the headers that say so are longer than what is saved.
MIN_COMPRESSED = 256


class Verdict(Struct, frozen=True):
    """What a front end says of a request that got no result. status: of HTTP; retry_after_s: 0 for none."""

    status: int
    sentence: str
    retry_after_s: int


def verdict(answer: Inference) -> Verdict | None:
    """None for a success: ok, and what there is of a late request."""
    nothing = answer.missing > 0 and not answer.served
    if answer.outcome == "ok" or (answer.outcome == "late" and not nothing):
        return None
    sentence = f"{answer.outcome}: {answer.reason}"
    if answer.refusal is not None and answer.refusal.client_fault:
        return Verdict(400, sentence, 0)
    # A model that failed will fail again; where the gateway was lost, the next one may well serve the request.
    if answer.outcome == "failed" and not answer.retry_s:
        return Verdict(500, sentence, 0)
    # Too many requests is what a client can do something about; the rest is about the server.
    status = 429 if answer.outcome == "rejected" and answer.retry_s else 503
    return Verdict(status, sentence, max(1, ceil(answer.retry_s)))


def parameters(answer: Inference) -> Json:
    """How it was served; `served` joins the variant paths of the leaves. slack_ms is below 0 after the deadline. Where an
    item has no result: its stage; where it was dropped, how late that would have ended, and its cheapest variant if that
    would have fitted."""
    told: Json = {
        "outcome": answer.outcome,
        "accuracy": answer.accuracy,
        "latency_ms": 1000 * answer.latency_s,
        "slack_ms": 1000 * answer.slack_s,
        "served": ",".join(map("/".join, answer.served)),
        "missing": answer.missing,
    }
    if answer.refusal is not None and answer.refusal.stage:
        told |= {
            "stage": answer.refusal.stage,
            "late_ms": 1000 * answer.refusal.late_s,
            "fitting": answer.refusal.fitting,
        }
    return told


def encode(answer: Inference, request: InferRequest, described: Described) -> tuple[bytes, int | None]:
    """The body of a success, and the length of its JSON if a binary tensor follows."""
    elements = output_elements(answer, described)
    output: Json = {"name": described.output.name, "datatype": "BYTES", "shape": [len(elements)]}
    whole = {
        "model_name": described.pipeline,
        "model_version": VERSION,
        "id": request.id,
        "parameters": parameters(answer),
        "outputs": [output],
    }
    if not request.binary:
        output["data"] = [element.decode("utf-8", "replace") for element in elements]
        return msgspec.json.encode(whole), None
    data = binary(elements)
    output["parameters"] = {"binary_data_size": len(data)}
    header = msgspec.json.encode(whole)
    return header + data, len(header)


def output_elements(answer: Inference, described: Described) -> list[bytes]:
    """One per finished leaf: what the model said, or, where no model ran, who would have."""
    if described.engine == "emulated":
        return ["/".join(path).encode() for path in answer.served]
    return [output.tobytes() for output in answer.outputs]


def binary(elements: list[bytes]) -> bytes:
    """A BYTES tensor: each element after its length."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def compress(body: bytes, accepted: str) -> tuple[bytes, str]:
    """The body as the client accepts it, and the name of that encoding (empty: as it was)."""
    wanted = [part.split(";")[0].strip() for part in accepted.split(",") if not part.replace(" ", "").endswith(";q=0")]
    if len(body) >= MIN_COMPRESSED:
        if "gzip" in wanted:
            return gzip.compress(body, 1, mtime=0), "gzip"
        if "deflate" in wanted:
            return zlib.compress(body, 1), "deflate"
    return body, ""
