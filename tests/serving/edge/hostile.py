"""Sixty and more HTTP inputs that mean no good, each small where it stands here: what is large is made when it is sent.

Each is answered with 4xx, or its connection is closed, in bounded time and without a word in the log; the front serves on.
"""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import repeat
from typing import Any, NamedTuple

# Of an emulated engine, whose input has a name and may be anything.
INFER = "/v2/models/reading/infer"
INPUT = {"name": "input", "datatype": "UINT8", "shape": [3], "data": [1, 2, 3]}


class Hostile(NamedTuple):
    """A name and the bytes of one connection, in the parts in which they are sent. A server may wait for more of one that is
    unfinished: the client leaves."""

    name: str
    parts: Callable[[], Iterable[bytes]]
    unfinished: bool = False


def send(port: int, hostile: Hostile, limit_s: float = 20.0) -> list[int]:
    """Send it and listen until the server closes. The status of each answer; none where it closed without one. Raises
    TimeoutError if it does neither."""
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as client:
        with suppress(ConnectionError):  # it may close before the end
            for part in hostile.parts():
                client.sendall(part)
        if hostile.unfinished:
            _end(client)
        return _heard(client)


def _end(client: socket.socket) -> None:
    with suppress(OSError):  # it is not connected any more
        client.shutdown(socket.SHUT_WR)


def _heard(client: socket.socket) -> list[int]:
    said = b""
    try:
        while part := client.recv(1 << 16):
            said += part
    except ConnectionError:
        pass
    heads = said.split(b"HTTP/1.1 ")[1:]
    return [int(head[:3]) for head in heads if not head.startswith(b"100")]


# -- kinds ----------------------------------------------------------------------------------------------------------------


def head(*lines: str, target: str = "/v2", method: str = "GET") -> bytes:
    first = (f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close")
    return "\r\n".join((*first, *lines, "", "")).encode("latin-1")


def post(body: bytes, *lines: str, target: str = INFER) -> bytes:
    return head(f"Content-Length: {len(body)}", *lines, method="POST", target=target) + body


def request(**changes: Any) -> bytes:
    """A good one with one thing changed."""
    return json.dumps({"inputs": [INPUT], **changes}).encode()


def tensor(**changes: Any) -> bytes:
    return request(inputs=[{**INPUT, **changes}])


def raw(data: bytes, shape: bytes = b"3", datatype: bytes = b"UINT8") -> bytes:
    """A tensor whose data are these bytes as they are."""
    return b'{"inputs":[{"name":"input","datatype":"%s","shape":[%s],"data":%s}]}' % (datatype, shape, data)


def bomb(part: bytes, times: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """gzip of a part many times over, without ever holding it."""
    packer = zlib.compressobj(9, wbits=31)
    many = max(1, (1 << 20) // len(part))
    whole, rest = divmod(times, many)
    packed = [packer.compress(before), *map(packer.compress, repeat(part * many, whole)), packer.compress(part * rest)]
    return b"".join((*packed, packer.compress(after), packer.flush()))


@cache
def empty_lists() -> bytes:
    """Ten million of them: 29 KB."""
    before = b'{"inputs":[{"name":"input","datatype":"UINT8","shape":[10000001],"data":['
    return bomb(b"[],", 10_000_000, before, b"[]]}]}")


@cache
def floats() -> bytes:
    return bomb(
        b"0.1234567,", 2_600_000, b'{"inputs":[{"name":"input","datatype":"FP32","shape":[2600001],"data":[', b"0]}]}"
    )


@cache
def zeros() -> bytes:
    return bomb(bytes(1 << 20), 256)


def packed(body: bytes, encoding: str = "gzip") -> bytes:
    return post(body, f"Content-Encoding: {encoding}")


def chunked(*chunks: bytes) -> bytes:
    return head("Transfer-Encoding: chunked", method="POST", target=INFER) + b"".join(chunks)


def _chunks(count: int) -> Iterator[bytes]:
    yield chunked()
    for _ in range(count // 1000):
        yield b"1\r\n[\r\n" * 1000
    yield b"0\r\n\r\n"


def _endless(first: bytes, more: bytes, times: int) -> Iterator[bytes]:
    yield first
    yield from repeat(more, times)


KILO, MEGA = 1 << 10, 1 << 20
START = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n"

_HEADS: dict[str, Callable[[], Iterable[bytes]]] = {
    "one header of 110 MB": lambda: _endless(START + b"X: ", b"x" * MEGA, 110),
    "one header of 200 KB, then its end": lambda: [head("X: " + "x" * 200 * KILO)],
    "the name of a header of 200 KB": lambda: [head("x" * 200 * KILO + ": x")],
    "two million headers": lambda: _endless(START, b"a: b\r\n" * 10_000, 200),
    "hundred and one headers": lambda: [head(*(f"X-{number}: x" for number in range(101)))],
    "an address of 100 KB": lambda: [head(target="/" + "a" * 100 * KILO)],
    "an address of 50 MB": lambda: _endless(b"GET /", b"a" * MEGA, 50),
    "200000 parameters of an address": lambda: [head(target="/v2?" + "a=b&" * 200_000)],
    "a method of 50 MB": lambda: _endless(b"", b"A" * MEGA, 50),
    "nothing but ends of lines": lambda: _endless(b"", b"\r\n" * 500_000, 20),
    "zero bytes in an address": lambda: [head(target="/v2\0/health")],
    "zero bytes in a header": lambda: [head("X: a\0b")],
    "a header without colon": lambda: [head("no colon here")],
    "a blank before the colon": lambda: [head("Content-Length : 5", method="POST")],
    "a header without name": lambda: [head(": x")],
    "a bare end of line in a header": lambda: [head("X: a\rInjected: b")],
    "a method that there is not": lambda: [head(method="BREW")],
    "version 9.9": lambda: [b"GET /v2 HTTP/9.9\r\nHost: localhost\r\n\r\n"],
    "the preface of HTTP/2": lambda: [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100)],
    "the hello of TLS": lambda: [bytes.fromhex("160301020001000001fc0303") + bytes(500)],
    "random bytes": lambda: [bytes(range(255, 0, -1)) * 100],
    "a proxy's request for another host": lambda: [head(method="CONNECT", target="example.com:443")],
    "an upgrade of what there is not": lambda: [head("Upgrade: websocket", "Connection: Upgrade", target="/ws")],
    "an upgrade to h2c": lambda: [head("Upgrade: h2c", "Connection: Upgrade", target="/ws")],
    "a path out of the tree": lambda: [head(target="/v2/../../../../etc/passwd")],
    "an encoded path out of the tree": lambda: [head(target="/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd")],
    "bad UTF-8 in a path": lambda: [head(target="/v2/models/%ff%fe%c0%80/config")],
    "ends of lines in a path": lambda: [head(target="/v2/models/a%0d%0aSet-Cookie:%20b")],
    "3000 requests at once": lambda: [b"GET /nowhere HTTP/1.1\r\n\r\n" * 3000, head(target="/nowhere")],
    "TRACE": lambda: [head(method="TRACE")],
}

_FRAMES: dict[str, Callable[[], Iterable[bytes]]] = {
    "two lengths": lambda: [head("Content-Length: 5", "Content-Length: 50", method="POST", target=INFER) + b"12345"],
    "a length below zero": lambda: [head("Content-Length: -1", method="POST", target=INFER)],
    "a length of 10^23": lambda: [head("Content-Length: 1" + "0" * 23, method="POST", target=INFER)],
    "a length of 10 GB": lambda: [head("Content-Length: 10000000000", method="POST", target=INFER)],
    "a length in words": lambda: [head("Content-Length: five", method="POST", target=INFER) + b"12345"],
    "a length beside chunks": lambda: [head("Content-Length: 5", "Transfer-Encoding: chunked", method="POST", target=INFER)],
    "a strange transfer encoding": lambda: [head("Transfer-Encoding: xchunked", method="POST", target=INFER) + b"0\r\n\r\n"],
    "chunked, and then not": lambda: [head("Transfer-Encoding: chunked, identity", method="POST", target=INFER)],
    "a chunk's size beyond 64 bits": lambda: [chunked(b"F" * 17 + b"\r\n")],
    "a chunk's size that is none": lambda: [chunked(b"-5\r\nhello\r\n0\r\n\r\n")],
    "a chunk's extension of 50 MB": lambda: _endless(chunked(b"1;"), b"x" * MEGA, 50),
    "a trailer of 50 MB": lambda: _endless(chunked(b"0\r\nX: "), b"x" * MEGA, 50),
    "100000 trailers": lambda: [chunked(b"2\r\n{}\r\n0\r\n", b"a: b\r\n" * 100_000, b"\r\n")],
    "a body in 100000 chunks": lambda: _chunks(100_000),
    "a body that ends early": lambda: [head("Content-Length: 500", method="POST", target=INFER) + b"{"],
    "a body of 33 MB": lambda: [post(bytes(33 * MEGA))],
    "a client that waits before it sends 40 MB": lambda: [
        head("Expect: 100-continue", f"Content-Length: {40 * MEGA}", method="POST", target=INFER)
    ],
}

_BODIES: dict[str, Callable[[], Iterable[bytes]]] = {
    "ten million empty lists in 29 KB": lambda: [packed(empty_lists())],
    "26 MB of numbers in 60 KB": lambda: [packed(floats())],
    "256 MB of zeros in 250 KB": lambda: [packed(zeros())],
    "gzip of gzip": lambda: [packed(gzip.compress(gzip.compress(request())))],
    "gzip that ends early": lambda: [packed(gzip.compress(request())[:-9])],
    "gzip with a wrong sum": lambda: [packed(gzip.compress(request())[:-8] + bytes(8))],
    "gzip that is none": lambda: [packed(b"gzip, honestly")],
    "deflate that is none": lambda: [packed(bytes(100), "deflate")],
    "an encoding that nobody knows": lambda: [packed(request(), "br")],
    "two encodings": lambda: [packed(gzip.compress(gzip.compress(request())), "gzip, gzip")],
    "lists 100000 deep": lambda: [post(b"[" * 100_000)],
    "data 100000 deep": lambda: [post(raw(b"[" * 100_000 + b"]" * 100_000))],
    "objects 100000 deep": lambda: [post(b'{"a":' * 100_000)],
    "four million empty lists": lambda: [post(raw(b"[" + b"[]," * 2_600_000 + b"[]]", b"2600001"))],
    "four million numbers of three": lambda: [post(raw(b"[" + b"1," * 4_000_000 + b"1]"))],
    "JSON of 20 MB": lambda: [post(raw(b"[" + b"1," * 10_000_000 + b"1]", b"10000001"))],
    "100000 parameters": lambda: [post(request(parameters={f"p{number}": 1 for number in range(100_000)}))],
    "100000 inputs": lambda: [post(request(inputs=[INPUT] * 100_000))],
    "100000 outputs": lambda: [post(request(outputs=[{"name": "boxes"}] * 100_000))],
    "a shape of a million sizes": lambda: [post(raw(b"[1,2,3]", b"1," * 1_000_000 + b"1"))],
    "a shape beyond all memory": lambda: [post(tensor(shape=[1 << 31, 1 << 31]))],
    "a shape beyond all memory, times zero": lambda: [post(tensor(shape=[1 << 31, 1 << 31, 1 << 31, 0], data=[]))],
    "a size below zero": lambda: [post(tensor(shape=[-3]))],
    "rows of different lengths": lambda: [post(tensor(data=[[1], [2, 3]]))],
    "values of different kinds": lambda: [post(tensor(data=[1, "2", None]))],
    "numbers that are none": lambda: [post(raw(b"[NaN,Infinity,-Infinity]", datatype=b"FP32"))],
    "1e999": lambda: [post(raw(b"[1e999,1,2]", datatype=b"FP64"))],
    "a number of 5000 digits": lambda: [post(raw(b"[1%s,1,2]" % (b"0" * 5000)))],
    "bad UTF-8 in data": lambda: [post(raw(b'["\xff\xfe"]', b"1", b"BYTES"))],
    "bad UTF-8 in a name": lambda: [post(b'{"inputs":[{"name":"\xc0\x80","datatype":"UINT8","shape":[1],"data":[1]}]}')],
    "half a character": lambda: [post(b'{"id":"\\ud800","inputs":[]}')],
    "UTF-16": lambda: [post(request().decode().encode("utf-16"))],
    "base64 that is none": lambda: [post(tensor(datatype="BYTES", shape=[1], data=["@@@@"]))],
    "more binary data than there are": lambda: [
        post(tensor(data=[], parameters={"binary_data_size": 1 << 62}), "Inference-Header-Content-Length: 10")
    ],
    "a header beyond the body": lambda: [post(request(), "Inference-Header-Content-Length: 99999999")],
    "a header of 5000 digits": lambda: [post(request(), "Inference-Header-Content-Length: " + "1" * 5000)],
    "a timeout below zero": lambda: [post(request(parameters={"timeout": -1}))],
    "two values in one body": lambda: [post(request() + request())],
    "an index 100000 deep": lambda: [post(b"[" * 100_000, target="/v2/repository/index")],
    "an index of 30 MB": lambda: [post(b" " * (30 * MEGA), target="/v2/repository/index")],
    "a run that another site's page begins": lambda: [post(b"", "Origin: http://example.com", target="/loki/run")],
    "a run of a name that was pointed here": lambda: [
        b"POST /loki/run HTTP/1.1\r\nHost: example.com\r\nOrigin: http://example.com\r\nConnection: close\r\n\r\n"
    ],
}

UNFINISHED = ("a body that ends early",)
# Read to their end, so that no client misses why.
ANSWERED = frozenset(_BODIES)
CORPUS = tuple(Hostile(*item, item[0] in UNFINISHED) for kind in (_HEADS, _FRAMES, _BODIES) for item in kind.items())
BOMBS = tuple(hostile for hostile in CORPUS if hostile.name.split(" in ")[-1] in ("29 KB", "60 KB", "250 KB"))
