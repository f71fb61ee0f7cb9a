"""What TGI wants said differently."""

from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from tokenlane.benches.simulator import Simulator
from tokenlane.config.values import LaneSettings
from tokenlane.routing.errors import BadRequest
from tokenlane.routing.messages import ChatRequest
from tokenlane.worker.providers import default_registry

SCHEMA: JsonValue = {"type": "object"}


async def sent(**options: object) -> dict[str, JsonValue]:
    """The body that a request becomes."""
    request = ChatRequest.model_validate({"role": "r", "messages": [{"role": "user", "content": "q"}], **options})
    async with Simulator() as simulator, default_registry().create(LaneSettings("g", "tgi", simulator.url)) as provider:
        assert [delta async for delta in provider.chat(request, "sim")]
        body: dict[str, JsonValue] = json.loads(simulator.log[0].body)
        return body


async def test_formats() -> None:
    """A JSON schema goes as `value`, text as nothing."""
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    assert (await sent(response_format=schema))["response_format"] == {"type": "json", "value": SCHEMA}
    assert "response_format" not in await sent(response_format={"type": "text"})


@pytest.mark.parametrize("options", [{"response_format": {"type": "json_object"}}, {"repetition_penalty": 1.1}])
async def test_what_it_cannot_do_is_refused(options: dict[str, object]) -> None:
    """An option that would be ignored is an error that names it."""
    with pytest.raises(BadRequest, match=next(iter(options))):
        await sent(**options)
