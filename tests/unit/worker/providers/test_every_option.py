"""Every option is sent, put in other words or refused by every provider, and the documentation says which."""

from __future__ import annotations

import pytest
from tests.options import MEANINGS, OURS, PROVIDERS, SAMPLES, TABLE, fate, table

from tokenlane.producer.embeddings import EmbedOptions
from tokenlane.routing.contract.requests import ChatOptions, ChatRequest, EmbedRequest


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("sample", SAMPLES)
async def test_no_option_is_left_out_without_a_word(provider: str, sample: str) -> None:
    """What a server would ignore is refused before it is asked."""
    assert await fate(provider, sample)


def test_every_option_is_looked_at() -> None:
    """A new option has its row, and its sample unless it is the pool's own."""
    options = {*ChatOptions.__annotations__, "response_format"}
    assert set(MEANINGS) == options
    assert {sample.partition(":")[0] for sample in SAMPLES} - {"pictures"} == options - set(OURS)
    assert options == set(ChatRequest.model_fields) - {"id", "role", "messages"}
    assert set(EmbedOptions.__annotations__) == set(EmbedRequest.model_fields) - {"id", "role", "inputs"}


async def test_the_table_says_what_is_found() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes it anew."""
    assert TABLE.is_up_to_date(await table())
