"""A link to no pool, as clients use it."""

from __future__ import annotations

from contextlib import nullcontext

from tokenlane.producer import Client
from tokenlane.producer.testing.memory_link import MemoryLink
from tokenlane.producer.testing.mock_messages import MockMessages, chat_messages, embed_messages
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.support.tasks import background


async def test_what_crosses_a_link_names_agent_and_client() -> None:
    """Every envelope is of the link's client, and of the agent that the call names, or else the client's."""
    seen: list[Envelope] = []

    def answer(envelope: Envelope, payload: bytes) -> MockMessages:
        seen.append(envelope)
        return embed_messages(lambda: [[1.0]], 1) if envelope.kind == "embed" else chat_messages(lambda: "a")

    async with background() as tasks:
        link = MemoryLink(tasks, answer)
        async with Client(link=lambda: nullcontext(link), agent="usual") as client:
            await client.complete("x", role="planner")
            await client.complete("x", role="planner", agent="agent2")
            await client.embed("x", role="indexer", agent="agent3")
            assert await client.link.lanes() == ()
    assert [envelope.agent for envelope in seen] == ["usual", "agent2", "agent3"]
    assert {envelope.client for envelope in seen} == {link.client}
