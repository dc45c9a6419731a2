"""One account of the plane from what its nodes tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from msgspec import Struct

from loki_rl.serving.state import Part
from loki_rl.serving.transport.driver import Delivery
from loki_rl.serving.transport.timers import Timers
from loki_rl.serving.transport.wire import ControlWord, PartsRead, ReadParts

# Nodes answer within milliseconds; one that does not is told of as silent, instead of being waited for.
LIMIT_S = 0.5

Answered = Callable[[list[Part]], None]


class Open(Struct):
    """A question: nodes that have not answered, and what the others told."""

    waiting: set[str]
    parts: list[Part]
    answered: Answered


class StateQuery:
    """say: sends a word to a node. me: this node. timers: of the same driver."""

    def __init__(self, say: Callable[[str, ControlWord], None], me: str, timers: Timers) -> None:
        self._say = say
        self._me = me
        self._timers = timers
        self._open: dict[int, Open] = {}
        self._next = 0

    def ask(self, nodes: Sequence[str], answered: Answered) -> None:
        """Ask these nodes; `answered` gets their parts once all have told theirs, or after LIMIT_S those that came."""
        self._next += 1
        self._open[self._next] = Open(set(nodes), [], answered)
        self._timers.after(LIMIT_S, partial(self._expire, self._next))
        for node in nodes:
            self._say(node, ReadParts(self._next, self._me))

    def record(self, told: PartsRead) -> None:
        question = self._open.get(told.question)
        if question is None or told.node not in question.waiting:
            return
        question.waiting.discard(told.node)
        question.parts += told.parts
        if not question.waiting:
            self._answer(told.question)

    def _expire(self, number: int, _now: float) -> Iterable[Delivery]:
        if number in self._open:
            self._answer(number)
        return ()

    def _answer(self, number: int) -> None:
        question = self._open.pop(number)
        question.answered(question.parts)
