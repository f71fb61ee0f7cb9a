"""An answer of several attempts, over a channel that loses, repeats and reorders messages."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tokenlane.producer.link.delta_buffer import DeltaBuffer
from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.errors import Interrupted
from tokenlane.routing.contract.messages import ChannelMessage, Completed, Deltas, Handover, Resume

ID = "0" * 32


class Attempt:
    """An attempt that continues an answer, or begins it anew.

    Attributes:
        texts: the texts of all deltas of the answer as this attempt knows it, with those of earlier attempts.
        first: the position of the first delta of this attempt, which cannot send earlier ones again.
    """

    def __init__(self, number: int, before: Sequence[str], count: int, *, begun_by: int = 0) -> None:
        self.number, self.begun_by = number, begun_by
        restarted = begun_by == number > 0
        self.first = 0 if restarted else len(before)
        self.texts = [*([] if restarted else before), *(f"{number}.{place} " for place in range(count))]

    def send(self, after: int, chance: Random) -> list[ChannelMessage]:
        """Messages of random lengths with all deltas from that position on."""
        messages: list[ChannelMessage] = []
        while after < len(self.texts):
            end = after + chance.randint(1, 3)
            messages.append(Deltas.model_validate(self._fields(after, end)))
            after = end
        return messages

    def completion(self) -> Completed:
        """The end, with the last delta."""
        last = max(self.first, len(self.texts) - 1)
        ending = {"end": len(self.texts), "usage": Usage(attempts=self.number)}
        return Completed.model_validate(self._fields(last, len(self.texts)) | ending)

    def _fields(self, first: int, end: int) -> dict[str, object]:
        return {
            "attempt": self.number,
            "worker": f"w{self.number}",
            "lane": f"l{self.number}",
            "model": "m",
            "first": first,
            "deltas": [TokenDelta(text=text) for text in self.texts[first:end]],
            "begun_by": self.begun_by,
        }


Sent = tuple[ChannelMessage, Attempt]
"""A message, and the attempt that sent it."""


class Reader:
    """An agent that reads at random moments, and keeps the text as the stream gives it.

    `heard`: the texts of the answer that the buffer has a part of, as the newest attempt that it heard knows them.
    """

    def __init__(self, chance: Random, *, may_restart: bool) -> None:
        self.buffer = DeltaBuffer(ID, may_restart=may_restart, unread_deltas=chance.choice([1, 4, 1024]))
        self.text, self.position = "", -1
        self.heard: list[str] = []
        self._chance = chance

    def receive(self, message: ChannelMessage, attempt: Attempt) -> list[Handover]:
        """Take in a message from this attempt, and sometimes read what has arrived."""
        counts = attempt.number >= self.buffer.attempt and not self.buffer.ended
        if isinstance(message, Deltas | Completed) and message.deltas and counts:
            self.heard = attempt.texts
        replies = self.buffer.receive(message.model_copy(deep=True))
        if self._chance.random() < 0.5:
            self.read()
        return [reply.message for reply in replies if isinstance(reply.message, Handover)]

    def read(self) -> None:
        """Read all unread deltas."""
        while (delta := self.buffer.pop()) is not None:
            if delta.restarted:
                self.text, self.position = "", -1
            assert delta.position > self.position
            self.position = delta.position
            self.text += delta.text


@given(
    st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=1, max_size=5),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_number_of_failovers_gives_one_text(
    plan: list[tuple[int, bool]], may_restart: bool, chance: Random
) -> None:
    """Whatever the channel does, each attempt is handed exactly what the reader has, the text has no gap and no repeat,
    and the reader of an answer begun anew has only the new text."""
    reader, sent, attempt = Reader(chance, may_restart=may_restart), list[Sent](), Attempt(0, [], 0)
    for number, (count, wants_restart) in enumerate(plan, 1):
        resume = Resume(attempt=number, worker=f"w{number}")
        before, begun_by = list[str](), 0
        if number > 1:
            (handover,) = reader.receive(resume, attempt)
            before, begun_by = reader.heard[: handover.position], handover.begun_by
            assert (handover.state, handover.text, handover.tokens) == ("open", "".join(before), len(before))
        if wants_restart and may_restart and before:
            begun_by = number
        attempt = Attempt(number, before, count, begun_by=begun_by)
        arriving = [(message, attempt) for message in attempt.send(attempt.first, chance)]
        arriving += [(message, attempt) for message in attempt.send(attempt.first, chance) if chance.random() < 0.3]
        late = chance.sample(sent, min(3, len(sent)))
        sent += arriving
        if number == len(plan):
            arriving.append((attempt.completion(), attempt))
        arriving += [*late, (resume, attempt)]  # messages of earlier attempts; the worker asks again
        chance.shuffle(arriving)
        for message, sender in arriving:
            if chance.random() < 0.8:
                reader.receive(message, sender)
    for _ in range(3):
        for message in [*attempt.send(max(attempt.first, reader.buffer.position), chance), attempt.completion()]:
            reader.receive(message, attempt)
    reader.read()
    assert reader.buffer.ended
    assert reader.buffer.error is None
    assert reader.text == reader.buffer.answer.text == "".join(attempt.texts)


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_an_answer_begun_anew_unasked_leaves_the_part(had: int, count: int, chance: Random) -> None:
    """A reader that does not allow it has exactly the part that it had, and nothing of the new answer."""
    reader, first = Reader(chance, may_restart=False), Attempt(1, [], had)
    for message in first.send(0, chance):
        reader.receive(message, first)
    second = Attempt(2, [], count, begun_by=2)
    messages = [*second.send(0, chance), second.completion()]
    chance.shuffle(messages)
    for message in messages:
        reader.receive(message, second)
    reader.read()
    assert isinstance(reader.buffer.error, Interrupted)
    assert reader.buffer.error.partial == reader.text == "".join(first.texts)
