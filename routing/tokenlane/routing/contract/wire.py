"""What all messages share: names, ids, and how they are written."""

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
"""Something a model can do: chat, embed, tools, schema, vision, prefill."""

RequestId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def new_id() -> str:
    """A request id: 128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


CONFIG = ConfigDict(extra="ignore", hide_input_in_errors=True)


class Wire(BaseModel):
    """Something that travels as JSON. Readers ignore fields they do not know; errors do not quote input."""

    model_config = CONFIG

    def to_wire(self) -> bytes:
        """The message as JSON: the fields that were set; of a versioned message always its version and type."""
        return self.model_dump_json(exclude_unset=True).encode()


class Value(Wire):
    """A part of a message, which does not change."""

    model_config = ConfigDict(frozen=True)


class Versioned(Wire):
    """A message for itself, with the version of the contract."""

    v: int = WIRE_VERSION

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.update({"v", "type"} & type(self).model_fields.keys())
