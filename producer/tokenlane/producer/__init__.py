"""All names that agents import: the client, its messages and its errors."""

from __future__ import annotations

import logging as _logging
from importlib import metadata as _metadata

from tokenlane.routing.contract.answers import (
    Answer,
    TokenDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    DigestMismatch,
    Duplicate,
    EntryDeleted,
    HookFailed,
    ImagesNotAccepted,
    Interrupted,
    LaneConflict,
    LlmError,
    ModelNotFound,
    NoToolCall,
    PluginFailed,
    PoolKeyMismatch,
    PoolUnavailable,
    ProviderDown,
    QueueFull,
    RateLimited,
    RequestCancelled,
    RequestLost,
    SchemaMismatch,
    Timeout,
    Unauthorized,
    UnreadableAnswer,
)
from tokenlane.routing.contract.requests import ChatOptions, ChatRequest, Message
from tokenlane.routing.contract.results import ModelInfo, Progress

from .client import Client
from .conversation.answer_stream import ConversationStream
from .conversation.conversation import Conversation
from .conversation.one_at_a_time import ConversationBusy
from .conversation.options import ConversationOptions
from .embeddings import Embeddings, EmbedOptions
from .stream import ChatStream

__all__ = [
    "Answer",
    "BadRequest",
    "ChatOptions",
    "ChatRequest",
    "ChatStream",
    "Client",
    "ContextTooLong",
    "Conversation",
    "ConversationBusy",
    "ConversationOptions",
    "ConversationStream",
    "DeadlineExceeded",
    "DigestMismatch",
    "Duplicate",
    "EmbedOptions",
    "Embeddings",
    "EntryDeleted",
    "HookFailed",
    "ImagesNotAccepted",
    "Interrupted",
    "LaneConflict",
    "LlmError",
    "Message",
    "ModelInfo",
    "ModelNotFound",
    "NoToolCall",
    "PluginFailed",
    "PoolKeyMismatch",
    "PoolUnavailable",
    "Progress",
    "ProviderDown",
    "QueueFull",
    "RateLimited",
    "RequestCancelled",
    "RequestLost",
    "SchemaMismatch",
    "Timeout",
    "TokenDelta",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "TopLogprob",
    "Unauthorized",
    "UnreadableAnswer",
    "Usage",
]

_logging.getLogger("tokenlane").addHandler(_logging.NullHandler())  # prints nothing until an agent configures logging
__version__ = _metadata.version("tokenlane")
