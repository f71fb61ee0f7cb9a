"""The base classes of all models that travel as JSON, and the types of names and ids in them."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

WIRE_VERSION = 1

Priority = Literal["high", "normal", "low"]
Kind: TypeAlias = str
"""The name of a kind of work, one of `kinds.KINDS`."""
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$")]
"""The name of a role, agent, lane or client. It is part of Redis keys: at most 128 letters, digits and `_ . @ -`."""
Ability: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]
"""An ability of a model: chat, embed, tools, schema, vision, prefill."""

RequestId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def new_id() -> str:
    """A new request id: 128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


CONFIG = ConfigDict(extra="ignore", hide_input_in_errors=True)


class Wire(BaseModel):
    """A model that travels as JSON. Readers ignore unknown fields; validation errors do not quote the input."""

    model_config = CONFIG

    def to_wire(self) -> bytes:
        """Serialize to JSON. Fields that were not set are left out, except a versioned message's `v` and `type`."""
        return self.model_dump_json(exclude_unset=True).encode()


class Value(Wire):
    """An immutable model, which is a part of messages."""

    model_config = ConfigDict(frozen=True)


class Versioned(Wire):
    """A message that carries the version of the contract in `v`."""

    v: int = WIRE_VERSION

    def to_wire(self) -> bytes:
        # Here and not when the message is made: most messages are parsed and never sent.
        self.model_fields_set.update({"v", "type"} & type(self).model_fields.keys())
        return super().to_wire()
