"""Two accounts of the same requests, the clients' and the plane's, and where they cannot both be true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.ledger import Tally
from loki_rl.serving.load.open_loop import Record
from loki_rl.serving.state import Requests


class Account(Struct):
    """requests: that clients made, of which `refused` could not even be sent. told: outcome -> answers in which the plane
    said so. cut: those that ended with their connection, or were answered by a front end in the plane's place: the plane may
    have had them. lost: without an end. twice: with two. plane: outcome -> requests by its ledger. unknown: of what was
    told, what a gateway that was killed may not have written down. unexplained: requests on which both accounts differ.

    faults: sentences on what does not add up; empty if all does.
    """

    requests: int
    refused: int
    told: dict[str, int]
    cut: int
    lost: int
    twice: int
    plane: dict[str, int]
    unknown: int
    unexplained: int
    faults: list[str]


def account(
    records: Sequence[Record], answered_again: int, tally: Tally, shown: Requests, forgotten: Iterable[tuple[float, float]]
) -> Account:
    """answered_again: answers to what had one. shown: as /loki/state tells. forgotten: times [s] from which a killed gateway
    took what it knew with it: what clients sent then may be in the ledger or not."""
    spans = list(forgotten)
    told = [record for record in records if record.told and record.ends]
    stated = Counter(record.outcome for record in told)
    vague = Counter(record.outcome for record in told if any(begin <= record.sent <= end for begin, end in spans))
    refused = sum(record.ends > 0 and record.sent != record.sent for record in records)
    cut = sum(record.ends > 0 and not record.told for record in records) - refused
    ledger = Counter({outcome: tally.outcome(outcome) for outcome in Outcome})
    faults, unexplained = _disagreements(stated, vague, ledger, cut)
    faults += _own_faults(tally, shown)
    return Account(
        requests=len(records),
        refused=refused,
        told=_named(stated),
        cut=cut,
        lost=sum(record.lost for record in records),
        twice=sum(record.ends > 1 for record in records) + answered_again,
        plane=_named(ledger),
        unknown=vague.total(),
        unexplained=unexplained,
        faults=faults,
    )


def _disagreements(
    stated: Counter[Outcome], vague: Counter[Outcome], ledger: Counter[Outcome], cut: int
) -> tuple[list[str], int]:
    """An outcome that clients were told stands in the ledger; one that stands there was told, or its client was cut off.
    What a killed gateway had open, its successor counts as failed."""
    faults = [
        f"{least} requests were told '{outcome.name.lower()}', the ledger has {ledger[outcome]}"
        for outcome in Outcome
        if ledger[outcome] < (least := stated[outcome] - vague[outcome])
    ]
    missing = sum(max(0, stated[outcome] - vague[outcome] - ledger[outcome]) for outcome in Outcome)
    more = ledger - stated
    more[Outcome.FAILED] = max(0, more[Outcome.FAILED] - vague.total())
    extra = max(more.total(), ledger.total() - stated.total()) - cut
    if extra > 0:
        faults.append(
            f"{extra} requests of the ledger ended otherwise than any client was told, beside {cut} that were cut off"
        )
    return faults, missing + max(0, extra)


def _own_faults(tally: Tally, shown: Requests) -> list[str]:
    """Whether the plane agrees with itself."""
    ended = sum(map(tally.outcome, Outcome))
    faults = []
    if ended != tally.arrivals:
        faults.append(f"{tally.arrivals} requests arrived by the ledger, {ended} ended")
    if shown.in_flight:
        faults.append(f"{shown.in_flight} requests are in flight by the state though nobody waits")
    if [tally.outcome(outcome) for outcome in Outcome] != shown.outcomes or tally.arrivals != shown.arrivals:
        faults.append(f"ledger and state differ: {tally.arrivals} arrived by the one, {shown.arrivals} by the other")
    return faults


def _named(counts: Counter[Outcome]) -> dict[str, int]:
    return {outcome.name.lower(): counts[outcome] for outcome in Outcome}
