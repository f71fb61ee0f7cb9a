"""Which messages a conversation may hold, and how questions become messages."""

from __future__ import annotations

from typing import Any, SupportsIndex

import pytest

from tokenlane.producer import BadRequest, Message
from tokenlane.producer.conversation.history import check_order, open_calls, question_message, result_message
from tokenlane.producer.conversation.saved import SavedConversation, read_saved

TEXT = {"type": "text", "text": "hi"}
BAD_ORDERS = ["a", "u", "ua a", "uu", "uat", "us", "uc1 u", "uc1 a", "uc1 t2", "uc12 t1 u", "uc1 t1 t1", "uas"]
GOOD_ORDERS = [
    "",
    "s",
    "ua",
    "sua",
    "dsuaua",
    "uc1",
    "uc1 t1",
    "uc12 t2",
    "uc12 t2 t1 a",
    "uc1 t1 ua",
    "uc1 t1 c2 t2 a",
]


def messages(letters: str) -> list[Message]:
    """Messages by the letters of their roles: `c12` is an answer that calls 1 and 2, `t1` the result of 1."""
    found: list[dict[str, object]] = []
    roles = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "c": "assistant", "t": "tool"}
    for letter in letters.replace(" ", ""):
        if letter in roles:
            found.append({"role": roles[letter], "content": letter})
            if letter == "c":
                found[-1]["tool_calls"] = []
        elif "tool_calls" in found[-1]:
            function = {"name": "f", "arguments": "{}"}
            found[-1]["tool_calls"] = [*found[-1]["tool_calls"], {"id": letter, "function": function}]  # type: ignore[misc]  # a list
        else:
            found[-1]["tool_call_id"] = letter
    return [Message.model_validate(fields) for fields in found]


@pytest.mark.parametrize("order", GOOD_ORDERS)
def test_a_conversation_between_two_questions(order: str) -> None:
    """Questions and answers take turns, and calls have results, except maybe the last ones."""
    check_order(messages(order))


@pytest.mark.parametrize("order", BAD_ORDERS)
def test_messages_out_of_place(order: str) -> None:
    """They are refused, also when they are loaded."""
    with pytest.raises(ValueError):
        check_order(messages(order))
    document = f'{{"v": 1, "messages": [{", ".join(each.model_dump_json() for each in messages(order))}]}}'
    with pytest.raises(ValueError):
        read_saved(document)


@pytest.mark.parametrize("call", [{"foo": 1}, {"id": 7}, {"id": ""}])
def test_a_loaded_call_without_an_id(call: dict[str, object]) -> None:
    """No result could be given to it."""
    answer = Message.model_validate({"role": "assistant", "tool_calls": [call]})
    with pytest.raises(ValueError):
        read_saved(SavedConversation(messages=[Message(role="user", content="u"), answer]).to_wire())


def test_a_long_conversation_is_checked_in_one_pass() -> None:
    """The check reads each message a fixed number of times, however many there are."""

    class Counted(list[Message]):
        read = 0

        def __getitem__(self, place: SupportsIndex | slice) -> Any:
            self.read += len(range(*place.indices(len(self)))) if isinstance(place, slice) else 1
            return super().__getitem__(place)

    long = Counted(messages("s" + "ua" * 500 + "uc1 t1 a" * 50))
    check_order(long)
    assert long.read <= 2 * len(long)


def test_calls_that_wait_for_results() -> None:
    """Those of the last answer, without the ones that have results."""
    waiting = {order: open_calls(messages(order)) for order in ("", "ua", "uc12", "uc12 t1", "uc12 t2 t1", "uc1 t1 u")}
    assert waiting == {"": [], "ua": [], "uc12": ["1", "2"], "uc12 t1": ["2"], "uc12 t2 t1": [], "uc1 t1 u": []}


@pytest.mark.parametrize("question", ["hi", [TEXT], (TEXT,), {"role": "user", "content": "hi"}, Message(role="user")])
def test_a_question(question: object) -> None:
    """Text, parts and a message are messages of the user."""
    assert question_message(question).role == "user"  # type: ignore[arg-type]  # all of them are


@pytest.mark.parametrize("question", [7, {"role": "system", "content": "secret"}, {"content": "secret"}, {"secret": 1}])
def test_what_is_no_question(question: object) -> None:
    """It is refused without being quoted."""
    with pytest.raises(BadRequest) as refused:
        question_message(question)  # type: ignore[arg-type]  # that is the point
    assert "secret" not in str(refused.value).replace("'secret'", "")
    with pytest.raises(BadRequest):
        result_message("c", 7)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    "text", ["", "secret", "[]", '{"v": 2, "messages": []}', '{"messages": [{"role": "secret"}]}', '{"left_out": 1}']
)
def test_what_is_no_saved_conversation(text: str) -> None:
    """It is refused without being quoted."""
    with pytest.raises(ValueError) as refused:
        read_saved(text)
    assert "secret" not in str(refused.value)
