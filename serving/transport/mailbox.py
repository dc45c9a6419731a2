"""The sockets of one node: an inbox it binds and an outbox for each peer it writes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import zmq

from loki_rl.serving.transport import wire
from loki_rl.serving.transport.curve import (
    Authenticator,
    CurveKeyError,
    KeyPair,
    bind_secured,
    needs_keys,
    on_network,
    secure_client,
)
from loki_rl.serving.transport.listening import bind_again
from loki_rl.serving.transport.multipart import NOBLOCK, SEND_MORE, Context, readable, receive_bytes, rest, send
from loki_rl.serving.transport.wire import CONTROL, LETTERS, LETTERS_AND_FRAMES, ControlWord, Frame, Letter, WireError

Received = tuple[Letter, list[zmq.Frame]]

RECONNECT_MS = 10
# A message with more payload frames than this is sent before the end of the burst, well below what a reader accepts.
FLUSH_PARTS = 1024


class Outbox:
    """A connection to one peer, and the letters of this burst for it."""

    __slots__ = ("frames", "letters", "socket")

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.letters: list[Letter] = []
        self.frames: list[Frame] = []

    def flush(self) -> None:
        """All letters as one message: a wake-up of the reader costs more than ten letters."""
        letters, frames = self.letters, self.frames
        if letters:
            self.letters = []
            if not frames:
                send(self.socket, wire.encode_letters(letters), NOBLOCK)
                return
            self.frames = []
            self._write(wire.encode_letters(letters, LETTERS_AND_FRAMES), frames)

    def _write(self, body: bytearray, frames: list[Frame]) -> None:
        socket = self.socket
        send(socket, body, SEND_MORE)
        last = frames.pop()
        for frame in frames:
            send(socket, frame, SEND_MORE, False)
        send(socket, last, NOBLOCK, False)

    def say(self, word: ControlWord) -> None:
        """Behind the letters that wait."""
        self.flush()
        send(self.socket, wire.encode_control(word), NOBLOCK)


class HeldOutbox(Outbox):
    """Writes nothing; what it would have written waits in order: for a peer that has no address yet, or in trials. held:
    letters with their frames, or a word."""

    __slots__ = ("held",)

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        super().__init__(socket)
        self.held: list[tuple[list[Letter], list[Frame]] | ControlWord] = []

    def flush(self) -> None:
        if self.letters:
            self.held.append((self.letters, self.frames))
            self.letters, self.frames = [], []

    def say(self, word: ControlWord) -> None:
        self.flush()
        self.held.append(word)

    def written(self) -> Outbox:
        """One for the same peer that writes, and has written what waited."""
        self.flush()
        outbox = Outbox(self.socket)
        for one in self.held:
            if isinstance(one, tuple):
                outbox.letters, outbox.frames = one
                outbox.flush()
            else:
                outbox.say(one)
        return outbox


class Mailbox:
    """endpoints: node -> address of its inbox, empty where it has none yet; a connection is made when the first letter goes
    there. outside: another address of the own one, for nodes of other hosts; keys: of all nodes, where hosts are several:
    nobody else gets in. Raises CurveKeyError for an address that other hosts can reach where there are none, ZMQError for
    one that cannot be had.

    No limit on queue lengths (HWM 0): credits bound what is under way, and a limit would lose messages without a word.
    malformed: messages that were dropped. sent, received: messages, not letters.
    """

    def __init__(
        self, context: Context, node: str, endpoints: Mapping[str, str], outside: str = "", keys: KeyPair | None = None
    ) -> None:
        self.node = node
        self.malformed = 0
        self.sent = 0
        self.received = 0
        self._context = context
        self._keys = keys
        self._door: Authenticator | None = None
        self._endpoints = dict(endpoints)
        self._outboxes: dict[str, Outbox] = {}
        self._filled: list[Outbox] = []
        own = self._pair(outside) if outside else None
        self.inbox = context.socket(zmq.PULL)
        self.inbox.setsockopt(zmq.RCVHWM, 0)
        self.inbox.setsockopt(zmq.LINGER, 0)
        self.inbox.setsockopt(zmq.MAXMSGSIZE, wire.MAX_PART_BYTES)
        try:
            self.inbox.bind(endpoints[node])
            if own is not None:
                self._door = Authenticator(context, lambda key: key == own.public)
                bind_secured(self.inbox, outside, own)
        except zmq.ZMQError:
            self._shut()
            raise

    def post(self, node: str, letter: Letter, frames: Sequence[Frame]) -> None:
        """Queue a letter for a node; `flush` sends it."""
        outbox = self._outboxes.get(node) or self._connect(node)
        if not outbox.letters:
            self._filled.append(outbox)
        outbox.letters.append(letter)
        if frames:
            outbox.frames += frames
            if len(outbox.frames) > FLUSH_PARTS:
                outbox.flush()

    def flush(self) -> None:
        for outbox in self._filled:
            outbox.flush()
        self.sent += len(self._filled)
        self._filled.clear()

    def say(self, node: str, word: ControlWord) -> None:
        """Send a control word, after the letters that wait for the same node."""
        (self._outboxes.get(node) or self._connect(node)).say(word)

    def hold(self, node: str) -> None:
        """From the next burst on, withhold what is for a node until `release`, or until it is gone: for trials only."""
        outbox = self._outboxes.get(node) or self._connect(node)
        if not isinstance(outbox, HeldOutbox):
            outbox.flush()
            self._outboxes[node] = HeldOutbox(outbox.socket)

    def release(self, node: str) -> None:
        """Write what was withheld from a node, in order."""
        outbox = self._outboxes.get(node)
        if isinstance(outbox, HeldOutbox) and self._endpoints[node]:
            self._outboxes[node] = outbox.written()

    def take(self, limit: int) -> tuple[list[Received], list[ControlWord]]:
        """Read at most `limit` messages without waiting; malformed ones are counted and let go."""
        letters: list[Received] = []
        words: list[ControlWord] = []
        inbox = self.inbox
        try:
            message = receive_bytes(inbox, NOBLOCK)
        except zmq.Again:
            return letters, words
        while True:
            self.received += 1
            try:
                self._sort(message, letters, words)
            except WireError:
                self.malformed += 1
            limit -= 1
            # Asking costs a third of the exception that would say so.
            if not limit or not readable(inbox):
                return letters, words
            message = receive_bytes(inbox, NOBLOCK)

    def bind_again(self) -> None:
        """See listening.bind_again."""
        bind_again(self.inbox, self._endpoints[self.node])

    def forget(self, node: str, endpoint: str) -> None:
        """Close the connection to a node and lose what is queued for it; its successor listens at `endpoint`, or what is for
        it waits until this is called again. Under the same address a message on its way could still reach the successor.
        Who began after the successor may know it already."""
        known = self._endpoints.get(node)
        if endpoint == known:
            return
        self._endpoints[node] = endpoint
        outbox = self._outboxes.get(node)
        if outbox is None:
            return
        if known == "":
            _join(outbox.socket, endpoint, self._pair(endpoint))
            self.release(node)
            return
        del self._outboxes[node]
        if outbox in self._filled:
            self._filled.remove(outbox)
        outbox.socket.close(linger=0)

    def close(self, last: str | None = None, linger_s: float = 0.0) -> None:
        """Close all sockets; what was sent to the node `last` is given this long to leave. The others may be gone already,
        and would make everyone wait."""
        for node, outbox in self._outboxes.items():
            outbox.socket.close(linger=round(1000 * linger_s) if node == last else 0)
        self._outboxes.clear()
        self._shut()

    def _shut(self) -> None:
        self.inbox.close(linger=0)
        if self._door is not None:
            self._door.close()

    def _pair(self, endpoint: str) -> KeyPair | None:
        """Of both ends of a connection there; None where files have owners, or nobody else can come."""
        if self._keys is None and needs_keys(endpoint):
            raise CurveKeyError(f"'{endpoint}' can be reached from other hosts, and this plane has no keys for its nodes")
        return self._keys if on_network(endpoint) else None

    def _connect(self, node: str) -> Outbox:
        endpoint = self._endpoints[node]
        pair = self._pair(endpoint)
        socket = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        if endpoint:
            _join(socket, endpoint, pair)
        outbox = self._outboxes[node] = Outbox(socket) if endpoint else HeldOutbox(socket)
        return outbox

    def _sort(self, message: bytes, letters: list[Received], words: list[ControlWord]) -> None:
        """A part that no kind announces is read as a message of its own, and is none."""
        kind, body = message[0] if message else 0, memoryview(message)[1:]
        if kind == LETTERS:
            letters += wire.decode_letters(body, [])
        elif kind == LETTERS_AND_FRAMES:
            letters += wire.decode_letters(body, rest(self.inbox, wire.MAX_PARTS))
        elif kind == CONTROL:
            words.append(wire.decode_control(body))
        else:
            raise WireError("unknown kind or version")


def _join(socket: zmq.Socket[bytes], endpoint: str, pair: KeyPair | None) -> None:
    """pair: of both ends, where there is one."""
    if pair is not None:
        secure_client(socket, pair, pair.public)
    socket.connect(endpoint)
