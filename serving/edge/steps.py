"""Work on what a stranger sent, in steps of about a millisecond: others of the loop get their turn between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
# Yields where others may have their turn; returns its result.
Steps = Generator[None, None, T]


def at_once(steps: Steps[T]) -> T:
    """All of them, one after another."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class Pace:
    """Long work of one loop: one at a time gets on, so that many do not hold up others more than one does."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def finish(self, steps: Steps[T], needed: Callable[[], bool]) -> T | None:
        """The result; None where it is not needed any more. Short work, which has one step, does not wait for its turn."""
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        async with self._turn:
            while needed():
                await asyncio.sleep(0)
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
        steps.close()
        return None
