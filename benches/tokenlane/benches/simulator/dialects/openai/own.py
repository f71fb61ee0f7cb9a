"""OpenAI's own server, which serves Responses too. Servers that imitate only its chats extend `OpenAiDialect`."""

from __future__ import annotations

from collections.abc import Mapping

from tokenlane.benches.simulator.dialects.encoder import Encoder

from .dialect import OpenAiDialect
from .responses import ResponsesEncoder


class OpenAiOwnDialect(OpenAiDialect):
    """A server with exactly OpenAI's API, of which it has chats, Responses and embeddings."""

    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoders of chats and of Responses."""
        return {**super().encoders(), "/v1/responses": ResponsesEncoder()}
