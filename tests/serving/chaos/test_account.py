"""Both accounts of the same requests: what does not fit is counted and said, what a fault explains is not."""

from __future__ import annotations

import math

import pytest

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.ledger import Tally
from loki_rl.serving.chaos.account import Account, account
from loki_rl.serving.load.open_loop import Record
from loki_rl.serving.load.sender import Seen
from loki_rl.serving.state import Requests


def ended(outcome: Outcome = Outcome.OK, sent: float = 10.0, *, told: bool = True, times: int = 1) -> Record:
    record = Record(sent, sent)
    for _ in range(times):
        record.end(sent + 0.1, Seen(0, outcome, 1.0, told=told))
    return record


def plane(outcomes: list[Outcome], open_: int = 0) -> tuple[Tally, Requests]:
    tally, shown = Tally(), Requests()
    for outcome in outcomes:
        tally.arrive(0)
        tally.close(0, outcome, 0.1, 1.0)
        shown.arrivals += 1
        shown.outcomes[outcome] += 1
    shown.in_flight = open_
    return tally, shown


def taken(records: list[Record], outcomes: list[Outcome], forgotten: tuple[tuple[float, float], ...] = ()) -> Account:
    return account(records, 0, *plane(outcomes), forgotten)


def test_accounts_that_agree_have_nothing_to_say() -> None:
    found = taken([ended(), ended(Outcome.DROPPED)], [Outcome.OK, Outcome.DROPPED])
    assert (found.lost, found.twice, found.unexplained, found.faults) == (0, 0, 0, [])
    assert found.told == found.plane


def test_a_request_without_an_end_is_lost_and_one_that_was_never_sent_is_not() -> None:
    unsent = Record(10.0, ended=10.0, ends=1)
    assert math.isnan(unsent.sent)
    found = taken([ended(), Record(10.0, 10.0), unsent], [Outcome.OK])
    assert (found.lost, found.refused, found.cut) == (1, 1, 0)


def test_two_answers_to_a_request_are_one_too_many() -> None:
    assert taken([ended(times=2)], [Outcome.OK]).twice == 1
    assert account([ended()], 3, *plane([Outcome.OK]), ()).twice == 3


def test_an_answer_that_the_ledger_does_not_have_is_unexplained() -> None:
    found = taken([ended(), ended()], [Outcome.OK])
    assert found.unexplained == 1
    assert found.faults == ["2 requests were told 'ok', the ledger has 1"]


def test_what_the_ledger_has_more_is_explained_by_clients_that_were_cut_off_and_by_nothing_else() -> None:
    cut = ended(Outcome.FAILED, told=False)
    assert taken([ended(), cut], [Outcome.OK, Outcome.OK]).unexplained == 0
    assert taken([ended(), cut], [Outcome.OK]).unexplained == 0
    found = taken([ended(), cut], [Outcome.OK] * 3)
    assert found.unexplained == 1
    assert "otherwise than any client was told" in found.faults[0]


@pytest.mark.parametrize(
    ("ledger", "unexplained"),
    [([], 0), ([Outcome.FAILED], 0), ([Outcome.OK], 0), ([Outcome.DROPPED], 1), ([Outcome.OK] * 2, 1)],
)
def test_a_killed_gateway_may_forget_what_was_sent_just_before(ledger: list[Outcome], unexplained: int) -> None:
    assert taken([ended(sent=10.0)], ledger, ((9.0, 11.0),)).unexplained == unexplained


def test_a_gateway_may_not_forget_what_was_sent_long_before() -> None:
    assert taken([ended(sent=5.0)], [], ((9.0, 11.0),)).unexplained == 1


def test_ledger_and_state_have_to_agree_and_nothing_may_stay_open() -> None:
    tally, shown = plane([Outcome.OK], open_=1)
    shown.arrivals += 1
    assert [fault.split(":")[0] for fault in account([ended()], 0, tally, shown, ()).faults] == [
        "1 requests are in flight by the state though nobody waits",
        "ledger and state differ",
    ]
