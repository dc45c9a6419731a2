"""What a check found out."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# ok; a thing to know (something is slower or missing that not everybody needs); wrong: something will fail.
Level = Literal["ok", "note", "wrong"]


class Finding(Struct, frozen=True):
    """found: what is the case; advice: what to do about it, empty where nothing has to be done."""

    what: str
    level: Level
    found: str
    advice: str = ""
