"""One picture that shows what the change of models meant: answered in time both before the crowd and at its height."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct
from rich.markup import escape

from loki_rl.demo.crowd import Crowd
from loki_rl.demo.stage import PLANNED
from loki_rl.reading.drawing import Sight, draw, sight
from loki_rl.reading.scenes import Scene
from loki_rl.serving.gateway.client import Inference

# More lines than this nobody reads.
MOST_LINES = 10
BEFORE, HEIGHT = "before the crowd", "at its height"


class Answer(Struct, frozen=True):
    """number: of the picture; time_s: when it was sent, in trace time."""

    number: int
    time_s: float
    answer: Inference


class Pair(Struct, frozen=True):
    """Two answers to one picture."""

    number: int
    before: Sight
    height: Sight

    @property
    def telling(self) -> int:
        """Lines that only the first answer has right, less those that it has not."""
        return 2 * self.before.right - self.height.right - len(self.before.lines)


def choose(answers: Iterable[Answer], scenes: Sequence[Scene], crowd: Crowd) -> Pair | None:
    """Of the pictures that were answered at both times the one whose answers differ most, where the first is right."""
    before: dict[int, list[Sight]] = {}
    height: dict[int, list[Sight]] = {}
    for one in answers:
        lines = scenes[one.number].lines
        if len(lines) <= MOST_LINES and one.time_s < crowd.calm_s:
            before.setdefault(one.number, []).append(sight(one.answer, lines))
        elif len(lines) <= MOST_LINES and crowd.height_from_s <= one.time_s < crowd.height_to_s:
            height.setdefault(one.number, []).append(sight(one.answer, lines))
    pairs = (Pair(number, a, b) for number in before if number in height for a in before[number] for b in height[number])
    return max(pairs, key=lambda pair: pair.telling, default=None)


def report(pair: Pair | None, scenes: Sequence[Scene], best: str, path: Path) -> list[str]:
    """Draw the pair, and say what is seen; best: the most accurate models, as `Sight.models` names them."""
    path.unlink(missing_ok=True)
    if pair is None:
        return [f"No picture was answered in time by '{PLANNED}' both {BEFORE} and {HEIGHT}, so none is shown."]
    moments = ((BEFORE, pair.before), (HEIGHT, pair.height))
    draw(scenes[pair.number].jpeg, moments, path)
    lines = [f"One picture ({path}), read by '{PLANNED}':", *(_told(when, seen) for when, seen in moments)]
    if pair.before.models == pair.height.models:
        lines.append("The same models read it at both times: here the crowd has changed nothing that could be shown.")
    elif pair.before.models != best:
        lines.append(f"{BEFORE.capitalize()} these were not the most accurate models, which are {best}.")
    return [escape(line) for line in lines]


def _told(when: str, seen: Sight) -> str:
    wrong = "; ".join(str(line) for line in seen.lines if not line.right)
    return f"  {when}, {seen.models}: {seen.right} of {len(seen.lines)} lines right{': ' if wrong else ''}{wrong}"
