"""Models that could not be loaded, until when nobody is to try again, and who tries then: a circuit breaker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from loki_rl.core.plan import Exclusion
from loki_rl.core.servers.server_record import ServerRecord
from loki_rl.core.servers.servers import Servers
from loki_rl.core.servers.transition import Model

FIRST_S = 10.0
LONGEST_S = 300.0

Key = tuple[Model, int]  # model, position of the type of server


@dataclass(slots=True, eq=False)
class _Failure:
    """until: excluded before [s]; pause_s: for how long this time; reason: of the last failure."""

    until: float
    pause_s: float
    reason: str


class Exclusions:
    """A model whose load failed is excluded on that type of server: for FIRST_S, twice as long whenever it fails again after
    that, at most LONGEST_S. A load that succeeds forgets all of it.

    When the time is over one server tries, and the others stay as they are until it has the model: if the file is still
    missing, all servers that a plan sends to it would stop serving for it at once.

    current: what is excluded now, as of the last call that has a time. A task of which no variant would be left has none:
    then trying on is all there is.
    """

    def __init__(self, servers: Servers) -> None:
        self.current: tuple[Exclusion, ...] = ()
        self._servers = servers
        self._failures: dict[Key, _Failure] = {}
        self._barred: frozenset[Key] = frozenset()
        self._spared: frozenset[str] = frozenset()

    def failed(self, model: Model, server_type: int, reason: str, now: float) -> None:
        """A load ended with an error. Loads that were under way when the first one failed do not add to the pause."""
        known = self._failures.get((model, server_type))
        if known is None:
            self._failures[model, server_type] = _Failure(now + FIRST_S, FIRST_S, reason)
        else:
            known.reason = reason
            if now >= known.until:
                known.pause_s = min(2 * known.pause_s, LONGEST_S)
                known.until = now + known.pause_s
        self.review(now)

    def loaded(self, model: Model, server_type: int, now: float) -> None:
        """A load ended well."""
        if self._failures.pop((model, server_type), None) is not None:
            self.review(now)

    def review(self, now: float) -> None:
        """Let go what was excluded long enough."""
        held = {key for key, failure in self._failures.items() if now < failure.until}
        self._spared = frozenset(task for task in {model[0] for model, _ in held} if not self._left(task, held))
        self._barred = frozenset(key for key in held if key[0][0] not in self._spared)
        self.current = tuple(self._exclusion(key) for key in sorted(self._barred))

    def ends(self, now: float) -> list[float]:
        """When pauses that last now will be over [s]."""
        return [failure.until for failure in self._failures.values() if now < failure.until]

    def has(self, model: Model, server_type: int) -> bool:
        """Whether a model is excluded on a type of server."""
        return (model, server_type) in self._barred

    def admitted(self, waiting: Iterable[int], machines: Mapping[int, ServerRecord]) -> list[int]:
        """Of the servers that were not told their targets, those that may be. One that has its model may always use it."""
        if not self._failures:
            return sorted(waiting)
        trying = {key for machine in machines.values() for key in _loads(machine)}
        found: list[int] = []
        # Who failed last comes last: else one server that never can would try for all others, for ever.
        for number in sorted(waiting, key=lambda number: (machines[number].failed_at, number)):
            key = _needs(machines[number])
            if key is not None and key in self._failures and key[0][0] not in self._spared:
                if key in self._barred or key in trying:
                    continue
                trying.add(key)
            found.append(number)
        return sorted(found)

    def _left(self, task: str, held: set[Key]) -> bool:
        """Whether some variant of a task can be loaded somewhere."""
        return any(
            variant.runnable and ((task, variant.name), place) not in held
            for place, pipeline in enumerate(self._servers.pipelines)
            for variant in pipeline.task(task).variants
        )

    def _exclusion(self, key: Key) -> Exclusion:
        (task, variant), place = key
        return Exclusion(task, variant, self._servers.types[place].name, self._failures[key].reason)


def _needs(machine: ServerRecord) -> Key | None:
    """What a server would have to load for its target."""
    if machine.target is None or machine.target[:2] in (machine.serving, machine.loading, machine.resident):
        return None
    return machine.target[:2], machine.server_type


def _loads(machine: ServerRecord) -> Iterator[Key]:
    """What a server loads, or was told to."""
    if machine.loading is not None:
        yield machine.loading, machine.server_type
    if machine.ordered and (key := _needs(machine)) is not None:
        yield key
