"""One account of the whole plane from what its nodes tell. Owns the questions that are still open; must not know what is in
an account, nor who wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from loki_rl.serving.state import Part
from loki_rl.serving.wire import Asked, Control, Told

# A question whose nodes have died is never complete; the oldest goes when there are more than this.
MAX_OPEN = 256

Answered = Callable[[list[Part]], None]


class Open(Struct):
    """A question: nodes that have not answered, and what the others told."""

    waiting: set[str]
    parts: list[Part]
    answered: Answered


class Survey:
    """say: sends a word to a node. me: this node. nodes: those to ask."""

    def __init__(self, say: Callable[[str, Control], None], me: str, nodes: Sequence[str]) -> None:
        self._say = say
        self._me = me
        self._nodes = nodes
        self._open: dict[int, Open] = {}
        self._next = 0

    def ask(self, answered: Answered) -> None:
        """Ask all nodes; `answered` gets their parts once all have told theirs."""
        self._next += 1
        self._open[self._next] = Open(set(self._nodes), [], answered)
        if len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]
        for node in self._nodes:
            self._say(node, Asked(self._next, self._me))

    def hear(self, told: Told) -> None:
        question = self._open.get(told.question)
        if question is None or told.node not in question.waiting:
            return
        question.waiting.discard(told.node)
        question.parts += told.parts
        if not question.waiting:
            del self._open[told.question]
            question.answered(question.parts)
