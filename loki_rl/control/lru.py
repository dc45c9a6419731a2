"""What was made last, to be had again without making it. Owns how much is kept and what is let go; knows not what it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Lru(Generic[Made]):
    """The values of the keys that were asked for last, at most so many. Where a key holds the id of an object its value must
    hold that object, so that the id cannot be taken over by another. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: OrderedDict[Hashable, Made] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The value of a key, made if it is not there. Others wait meanwhile, as they may want the same."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
                if len(self._made) > self._most:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]
