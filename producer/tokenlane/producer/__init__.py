"""What agents import: one door to the client, its messages and its errors."""

from __future__ import annotations

from tokenlane.routing.errors import (
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    DigestMismatch,
    Duplicate,
    Interrupted,
    LaneConflict,
    LlmError,
    ModelNotFound,
    PoolKeyMismatch,
    PoolUnavailable,
    ProviderDown,
    QueueFull,
    RateLimited,
    RequestCancelled,
    RequestLost,
    SchemaMismatch,
    SpaceMismatch,
    Timeout,
    Unauthorized,
)
from tokenlane.routing.messages import (
    Answer,
    ChatOptions,
    Message,
    ModelInfo,
    Progress,
    TokenDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)

from .client import Client
from .embeddings import Embeddings, EmbedOptions
from .stream import ChatStream

__all__ = [
    "Answer",
    "BadRequest",
    "ChatOptions",
    "ChatStream",
    "Client",
    "ContextTooLong",
    "DeadlineExceeded",
    "DigestMismatch",
    "Duplicate",
    "EmbedOptions",
    "Embeddings",
    "Interrupted",
    "LaneConflict",
    "LlmError",
    "Message",
    "ModelInfo",
    "ModelNotFound",
    "PoolKeyMismatch",
    "PoolUnavailable",
    "Progress",
    "ProviderDown",
    "QueueFull",
    "RateLimited",
    "RequestCancelled",
    "RequestLost",
    "SchemaMismatch",
    "SpaceMismatch",
    "Timeout",
    "TokenDelta",
    "ToolCall",
    "ToolCallDelta",
    "Unauthorized",
    "Usage",
]
