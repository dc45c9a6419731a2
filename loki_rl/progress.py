"""How far something is: told by what takes long, shown by whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable

# Told the share that is done, 0..1, as often as suits whoever does it.
Progress = Callable[[float], None]


def unseen(share: float) -> None:
    """Where nobody looks."""


# Told what is done, too, where one thing follows another.
Steps = Callable[[str, float], None]


def unseen_steps(what: str, share: float) -> None:
    """Where nobody looks."""
