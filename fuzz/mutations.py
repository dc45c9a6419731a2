"""Changes to inputs that keep their outer form, so that what lies behind it is reached: a damaged number in a message that
can be decoded, a record of a journal, a member of an archive."""

from __future__ import annotations

import random
import re
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import msgspec

from loki_rl.core.journal import LENGTH_BYTES
from loki_rl.flight.file import MAGIC

MAX_BYTES = 1 << 16
# In the place of a value: limits of types, what is no number, what is of another type, what is long or deep.
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 255, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, -0.0, 0.5,
    1e-300, 1e9, 1e18, 1e300, float("inf"), float("-inf"), float("nan"), "", "x", "a:b", "\0", "é" * 50, "9" * 400,
    [], {}, [[]], [0] * 50,
)  # fmt: skip
WORDS = (b"4294967296", b"-1", b"1e999", b"nan", b"0", b"''", b"[]", b"{}", b"~", b"true", b"&a", b"*a", b"!!int x", b"<<")
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def mutate(form: str, data: bytes, seed: int) -> bytes:
    """Another input, made from this one. form: one of FORMS; what does not have it is changed byte by byte."""
    rng = random.Random(seed)
    for _ in range(1 + rng.randrange(3)):
        change = FORMS[form] if rng.random() < 0.8 else _bytes
        try:
            data = change(data, rng)
        except Exception:  # what was damaged before need not have the form any more
            data = _bytes(data, rng)
    return data[:MAX_BYTES]


def _bytes(data: bytes, rng: random.Random) -> bytes:
    at, to = sorted(rng.choices(range(len(data) + 1), k=2))
    match rng.randrange(5):
        case 0:
            return data[:at] + data[to:]
        case 1:
            return data[:to] + data[at:]
        case 2:
            return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
        case 3:
            return data[:at] + bytes(reversed(data[at:to])) + data[to:]
        case _:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _text(data: bytes, rng: random.Random) -> bytes:
    """A number or a line."""
    numbers = list(NUMBER.finditer(data))
    if numbers and rng.random() < 0.5:
        one = rng.choice(numbers)
        return data[: one.start()] + rng.choice(WORDS) + data[one.end() :]
    lines = data.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines[at : at + 1] = [lines[at]] * rng.randrange(0, 4)
        case 1:
            lines[at], lines[to] = lines[to], lines[at]
        case 2:
            lines[at] = rng.choice((b"  ", b"- ", b"? ", b": ", b"#", b'"', b",", b"[", b"{")) + lines[at]
        case _:
            lines[at] += rng.choice((b" x", b"}", b"]", b":", b",1", b"\r", b"\xff", b'"', b"\t", b"\0"))
    return b"\n".join(lines)


def _tree(value: Any, rng: random.Random) -> Any:
    """A value with one part of it changed, whichever it is."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if rng.random() < 0.15:
            del value[key]
        elif isinstance(value, list) and rng.random() < 0.1:
            value.insert(key, value[rng.randrange(len(value))])
        else:
            value[key] = _tree(value[key], rng)
        return value
    if isinstance(value, bool | int | float) and rng.random() < 0.3:
        return value + rng.choice((-1, 1, 0.5))
    return rng.choice(VALUES)


def _packed(data: bytes, rng: random.Random, head: int = 0) -> bytes:
    return data[:head] + msgspec.msgpack.encode(_tree(msgspec.msgpack.decode(data[head:]), rng))


def _json(data: bytes, rng: random.Random) -> bytes:
    return msgspec.json.encode(_tree(msgspec.json.decode(data), rng))


def _journal(data: bytes, rng: random.Random) -> bytes:
    """One of its records changed, given twice or left out."""
    records: list[bytes] = []
    while data:
        end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
        records.append(data[LENGTH_BYTES:end])
        data = data[end:]
    at = rng.randrange(len(records))
    if rng.random() < 0.7:
        records[at] = _packed(records[at], rng)
    else:
        records[at : at + 1] = [records[at]] * rng.choice((0, 2))
    return b"".join(len(record).to_bytes(LENGTH_BYTES, "big") + record for record in records)


def _recording(data: bytes, rng: random.Random) -> bytes:
    """One of its chunks changed, so that its checksum is right, given twice or left out."""
    bodies = [part[8:] for part in data.split(MAGIC)[1:]]
    at = rng.randrange(len(bodies))
    if rng.random() < 0.7:
        bodies[at] = zlib.compress(_packed(zlib.decompress(bodies[at]), rng))
    else:
        bodies[at : at + 1] = [bodies[at]] * rng.choice((0, 2))
    heads = (MAGIC + len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") for body in bodies)
    return b"".join(head + body for head, body in zip(heads, bodies, strict=True))


def _archive(data: bytes, rng: random.Random) -> bytes:
    """One member changed, so that its checksum is right."""
    with zipfile.ZipFile(BytesIO(data)) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    name = rng.choice(list(parts))
    parts[name] = (_text if rng.random() < 0.5 else _bytes)(parts[name], rng)
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, part in parts.items():
            packed.writestr(name, part)
    return made.getvalue()


FORMS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes": _bytes,
    "text": _text,
    "msgpack": _packed,
    "versioned msgpack": lambda data, rng: _packed(data, rng, head=1),
    "json": _json,
    "journal": _journal,
    "recording": _recording,
    "archive": _archive,
}
