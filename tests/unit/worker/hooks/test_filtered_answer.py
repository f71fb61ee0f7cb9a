"""An answer that another worker continues passes through its token hook as if it had never broken off."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.hooks import Source, examples, filtered, text_of

from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.errors import HookFailed, Interrupted, ProviderDown
from tokenlane.routing.hooks.functions import StreamHook
from tokenlane.worker.hooks.filtered_answer import filter_answer

EXAMPLES = examples()
KEY = "sk-abcdefghij0123456789"
CUT = ProviderDown("cut")
parts = st.lists(st.sampled_from([KEY, "Best regards", "Best ", "regards", "sk-abc", "s", " is ", "k", "\n", "é"]))

places = st.lists(st.integers(0, 200), max_size=12)


async def out(hook: StreamHook, pieces: Sequence[str], *, delivered: str = "", breaks: bool = False) -> str:
    """The text that is delivered for an answer, which may break off after its pieces."""
    text = ""
    try:
        async for delta in filter_answer(hook, Source(*pieces, error=CUT if breaks else None).deltas(), delivered):
            text += delta.text
    except ProviderDown:
        assert breaks
    return text


def chunked(text: str, cuts: Sequence[int]) -> list[str]:
    """The text, cut at these places."""
    borders = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


async def known_to_the_model(hook: StreamHook, text: str, delivered: str) -> int:
    """How much of the model's text the delivered text stands for. What the hook held back is not in it."""
    for length in range(len(text) + 1):
        if await out(hook, [text[:length]], breaks=True) == delivered:
            return length
    raise AssertionError(delivered)


@pytest.mark.parametrize("hook", [EXAMPLES.mask_keys, EXAMPLES.stop_at_phrase, EXAMPLES.count_words])
@given(parts=parts, cuts=places, again=places, lost=st.data())
@example(parts=["a ", KEY, " b"], cuts=[1, 5, 9], again=[3], lost=None)
async def test_a_cut_answer_is_what_the_hook_makes_of_the_whole(
    hook: StreamHook, parts: list[str], cuts: list[int], again: list[int], lost: st.DataObject | None
) -> None:
    """However the text is divided into deltas, and wherever it breaks off, also twice."""
    text = "".join(parts)
    pieces = chunked(text, cuts)
    whole = await out(hook, [text])
    assert await out(hook, pieces) == whole
    delivered = ""
    for _ in range(2):
        left = pieces if lost is None else pieces[: lost.draw(st.integers(0, len(pieces)))]
        delivered += await out(hook, left, delivered=delivered, breaks=True)
        if whole == delivered and hook is EXAMPLES.stop_at_phrase:
            return  # the phrase has ended the answer
        assert whole.startswith(delivered)
        pieces = chunked(text[await known_to_the_model(hook, text, delivered) :], again)
    assert delivered + await out(hook, pieces, delivered=delivered) == whole


async def test_delivered_text_is_not_delivered_again() -> None:
    """The hook reads it first, in one delta, and may divide it as it likes."""

    async def letters(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        async for delta in deltas:
            for letter in delta.text:
                yield TokenDelta(text=letter)

    async def joined(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        yield TokenDelta(text="".join([delta.text async for delta in deltas]))

    for hook, expected in ((letters, ["d", "e", ""]), (joined, ["de", ""])):
        deltas = [delta async for delta in filter_answer(hook, Source("d", "e").deltas(), "abc")]
        assert [delta.text for delta in deltas] == expected


async def prefixed(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield TokenDelta(text="> ")
    async for delta in deltas:
        yield delta


async def shortened(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        yield TokenDelta(text=delta.text[:1])
        return


@pytest.mark.parametrize("hook", [prefixed, shortened])
async def test_a_hook_that_changes_delivered_text_fails(hook: StreamHook) -> None:
    """Nothing more is delivered, and the model server is not asked if the hook differs at once."""
    source = Source("d")
    with pytest.raises(HookFailed, match=hook.__qualname__):
        _ = [delta async for delta in filter_answer(hook, source.deltas(), "abc")]
    assert source.read == 0


async def test_an_answer_without_a_finish_reason_breaks_off() -> None:
    """What the hook holds back is not flushed: it is generated again."""

    async def unfinished() -> AsyncGenerator[TokenDelta, None]:
        yield TokenDelta(text="a sk-")

    with pytest.raises(Interrupted) as raised:
        await anext(filter_answer(EXAMPLES.mask_keys, unfinished()))
    assert raised.value.retryable


async def test_tokens_of_an_answer_that_the_hook_ends() -> None:
    """At least as many as the server has sent; what it counts for a whole answer is its own."""
    source = Source("a ", "Best regards", "c", usage=Usage(completion_tokens=9))
    *_, last = [delta async for delta in filter_answer(EXAMPLES.stop_at_phrase, source.deltas(), "delivered ")]
    assert last.usage == Usage(completion_tokens=2)
    source = Source("a ", "b", usage=Usage(completion_tokens=9))
    *_, last = [delta async for delta in filter_answer(EXAMPLES.stop_at_phrase, source.deltas(), "delivered ")]
    assert last.usage == Usage(completion_tokens=9)
    assert text_of(await filtered(EXAMPLES.without_reasoning, ["a"])) == "a"
