"""Letters reach their node whole and in order; what is malformed is counted and never stops the inbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from loki_rl.core.messages import Cancelled, Submit
from loki_rl.core.requests.items import Family
from loki_rl.serving.transport import mailbox, wire
from loki_rl.serving.transport.mailbox import Mailbox, Received
from loki_rl.serving.transport.multipart import Context
from loki_rl.serving.transport.wire import ControlWord, Gone, Letter, Up

Open = Callable[..., Mailbox]


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as made:
        yield made


@pytest.fixture
def open_box(context: Context, tmp_path: Path) -> Iterator[Open]:
    boxes: list[Mailbox] = []

    def make(name: str, life: int = 0) -> Mailbox:
        boxes.append(Mailbox(context, name, {"a": f"ipc://{tmp_path}/a", "b": f"ipc://{tmp_path}/b{life}"}))
        return boxes[-1]

    yield make
    for box in boxes:
        box.close()


def test_a_mailbox_whose_file_was_removed_can_be_found_again(open_box: Open, tmp_path: Path) -> None:
    a, b = open_box("a"), open_box("b")
    a.say("b", Up("early"))
    assert take(b, 1)[1] == [Up("early")]
    (tmp_path / "b0").unlink()
    b.bind_again()
    assert (tmp_path / "b0").is_socket()
    a.forget("b", f"ipc://{tmp_path}/b0")
    a.say("b", Up("late"))
    assert take(b, 1)[1] == [Up("late")]


def test_a_mailbox_is_not_opened_in_a_folder_that_is_gone(open_box: Open, tmp_path: Path) -> None:
    b = open_box("b")
    (tmp_path / "b0").unlink()
    tmp_path.rename(tmp_path.with_name("away"))
    b.bind_again()
    assert not tmp_path.exists()


def take(box: Mailbox, count: int) -> tuple[list[Received], list[ControlWord]]:
    """Wait until `count` letters and words are there."""
    letters: list[Received] = []
    words: list[ControlWord] = []
    while len(letters) + len(words) < count:
        assert box.inbox.poll(5000), "nothing came"
        more = box.take(64)
        letters += more[0]
        words += more[1]
    return letters, words


def cancelled(number: int) -> Letter:
    return Letter("x", Cancelled([number]), [])


def test_letters_of_a_burst_travel_as_one_message_in_order(open_box: Open) -> None:
    a, b = open_box("a"), open_box("b")
    for number in range(100):
        a.post("b", cancelled(number), [])
    a.flush()
    letters, _ = take(b, 100)
    assert [letter for letter, _ in letters] == [cancelled(number) for number in range(100)]
    assert b.received == 1


def test_letters_before_the_peer_exists_are_kept(open_box: Open) -> None:
    a = open_box("a")
    a.post("b", cancelled(1), [])
    a.flush()
    assert [letter for letter, _ in take(open_box("b"), 1)[0]] == [cancelled(1)]


@pytest.mark.parametrize("size", [1, 1 << 17])
def test_frames_stay_with_their_letter(open_box: Open, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "FLUSH_PARTS", 8)
    a, b = open_box("a"), open_box("b")
    for number in range(30):
        letter = Letter("x", Submit([Family(number, 0.0, 1.0, 0)]), [number])
        a.post("b", letter, [bytes([number]) * size])
    a.flush()
    letters, _ = take(b, 30)
    assert [letter.ids for letter, _ in letters] == [[number] for number in range(30)]
    assert all(frames[0].bytes == bytes([letter.ids[0]]) * size for letter, frames in letters)
    assert b.received > 1


def test_a_word_does_not_overtake_letters(open_box: Open) -> None:
    a, b = open_box("a"), open_box("b")
    a.post("b", cancelled(1), [])
    a.say("b", Up("a"))
    a.flush()
    assert take(b, 2)[1] == [Up("a")]
    assert b.received == 2


def test_forget_loses_what_was_queued_and_turns_to_the_successor(open_box: Open, tmp_path: Path) -> None:
    a = open_box("a")
    a.post("b", cancelled(1), [])
    a.flush()
    a.post("b", cancelled(2), [])
    a.forget("b", f"ipc://{tmp_path}/b1")
    a.flush()
    b = open_box("b", 1)
    a.post("b", cancelled(3), [])
    a.flush()
    assert [letter for letter, _ in take(b, 1)[0]] == [cancelled(3)]


def test_what_is_for_a_peer_without_an_address_waits_for_it(open_box: Open, tmp_path: Path) -> None:
    a = open_box("a")
    a.post("b", cancelled(1), [])
    a.forget("b", "")
    a.post("b", cancelled(2), [])
    a.say("b", Up("a"))
    a.flush()
    a.release("b")  # as a trial does, which must not write to nobody
    a.post("b", cancelled(3), [])
    a.forget("b", f"ipc://{tmp_path}/b1")
    a.flush()
    a.forget("b", f"ipc://{tmp_path}/b1")  # heard twice
    a.post("b", cancelled(4), [])
    a.flush()
    letters, words = take(open_box("b", 1), 4)
    assert [letter for letter, _ in letters] == [cancelled(number) for number in (2, 3, 4)]
    assert words == [Up("a")]


LETTER = bytes(wire.encode_letters([cancelled(1)]))
WITH_FRAME = bytes(wire.encode_letters([Letter("x", Cancelled([1]), [1])], wire.LETTERS_AND_FRAMES))
# Messages, and how many parts of each are no message.
MALFORMED = [
    ([b""], 1),
    ([b"\x12"], 1),
    ([b"\x12\xc1"], 1),
    ([b"\x11\x90"], 1),
    ([b"\x22\xc1"], 1),
    ([b"\x32\x90"], 1),
    ([b"\x12", b"\x90"], 2),
    ([b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"], 1),
    ([LETTER.replace(b"\x12", b"\x22", 1), b"a frame too many"], 1),
    ([WITH_FRAME], 1),
    ([WITH_FRAME.replace(b"\x22", b"\x12", 1)], 1),
    ([b"\x22\x90"] + [b"x"] * 200, 1),
    ([b"\x22\x90"] + [b""] * 70_000, 1),
    ([b"x"] * 200, 200),
]


def test_malformed_messages_are_counted_and_the_next_one_is_read(open_box: Open, context: Context) -> None:
    b = open_box("b")
    with context.socket(zmq.PUSH) as stranger:
        stranger.connect(b.inbox.get_string(zmq.LAST_ENDPOINT))
        for parts, _ in MALFORMED:
            stranger.send_multipart(parts)
        stranger.send(wire.encode_control(Gone("a", "ipc:///a")))
        assert take(b, 1) == ([], [Gone("a", "ipc:///a")])
    assert b.malformed == sum(count for _, count in MALFORMED)


def test_what_is_withheld_from_a_node_comes_whole_and_in_order_when_it_is_released(open_box: Open) -> None:
    a, b = open_box("a"), open_box("b")
    a.post("b", cancelled(0), [])
    a.hold("b")
    a.hold("b")
    for number in (1, 2):
        a.post("b", cancelled(number), [])
    a.flush()
    a.say("b", Up("a"))
    a.post("b", Letter("x", Submit([Family(1, 0.0, 1.0, 0)]), [7]), [b"frame"])
    a.flush()
    letters, words = take(b, 1)
    assert [letter.message for letter, _ in letters] == [Cancelled([0])]
    assert not b.inbox.poll(50)
    a.release("b")
    a.post("b", cancelled(3), [])
    a.flush()
    letters, words = take(b, 5)
    assert [letter.message for letter, _ in letters if not letter.ids] == [Cancelled([1]), Cancelled([2]), Cancelled([3])]
    assert [[frame.bytes for frame in frames] for _, frames in letters] == [[], [], [b"frame"], []]
    assert words == [Up("a")]


def test_what_was_withheld_from_a_node_that_is_gone_never_reaches_its_successor(open_box: Open, tmp_path: Path) -> None:
    a = open_box("a")
    a.hold("b")
    a.post("b", cancelled(1), [])
    a.flush()
    successor = open_box("b", 1)
    a.forget("b", f"ipc://{tmp_path}/b1")
    a.release("b")
    a.post("b", cancelled(2), [])
    a.flush()
    letters, _ = take(successor, 1)
    assert [letter.message for letter, _ in letters] == [Cancelled([2])]
