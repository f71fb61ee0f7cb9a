"""The base of everything that travels as JSON: names, ids, and the classes of messages."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

WIRE_VERSION = 1

Priority = Literal["high", "normal", "low"]
Kind: TypeAlias = str
"""The name of a kind of work, one of `kinds.KINDS`."""
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$")]
"""A role, agent, lane or client: part of key names, so letters, digits and `_ . @ -` only, 128 at most."""
Ability: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]
"""An ability of a model: chat, embed, tools, schema, vision, prefill."""

RequestId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def new_id() -> str:
    """A request id: 128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


CONFIG = ConfigDict(extra="ignore", hide_input_in_errors=True)


class Wire(BaseModel):
    """A model that travels as JSON. Readers ignore unknown fields; errors do not quote input."""

    model_config = CONFIG

    def to_wire(self) -> bytes:
        """The message as JSON: the fields that were set, and always a versioned message's version and type."""
        return self.model_dump_json(exclude_unset=True).encode()


class Value(Wire):
    """An immutable part of a message."""

    model_config = ConfigDict(frozen=True)


class Versioned(Wire):
    """A message of its type, with the version of the contract."""

    v: int = WIRE_VERSION

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.update({"v", "type"} & type(self).model_fields.keys())
