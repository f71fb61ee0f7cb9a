"""The names of all attributes of spans, as one table with the versions of the conventions that define them.

The names are not imported from OpenTelemetry's package of conventions, which marks those for generative AI as
deprecated since they moved to a repository of their own. docs/tracing.md has this table.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

from tokenlane.routing.contract.attempt_end import NotResumedReason, StopReason

MESSAGING_VERSION = "1.44.0"
"""The version of OpenTelemetry's semantic conventions, which define messaging, errors, servers and HTTP."""
GEN_AI_VERSION = "1.42.0-dev"
"""The version of the conventions for generative AI, which have no release yet."""
SCHEMA_URL = f"https://opentelemetry.io/schemas/{MESSAGING_VERSION}"

SYSTEM = "tokenlane"
"""The value of `messaging.system`, and of `gen_ai.provider.name` where tokenlane itself is what an agent asks."""


class Row(NamedTuple):
    """A row of the table. `spans`: the spans that have the attribute, or `links` for the links between attempts."""

    spans: tuple[str, ...]
    meaning: str


TABLE: dict[str, Row] = {}
"""All attributes, by name, in the order of the documentation."""


def _listed(codes: tuple[str, ...]) -> str:
    return ", ".join(f"`{code}`" for code in codes)


def _attribute(name: str, spans: tuple[str, ...], meaning: str) -> str:
    TABLE[name] = Row(spans, meaning)
    return name


_REQUEST, _ATTEMPT, _CALL, _FETCH = "llm.request", "llm.attempt", "model call", "fetch_response"
_TOKEN, _SCRIPT = "llm.token", "Redis script"
_READER = (_REQUEST, _FETCH)

MESSAGING_SYSTEM = _attribute("messaging.system", (_REQUEST, _ATTEMPT), f"`{SYSTEM}`")
MESSAGING_OPERATION = _attribute(
    "messaging.operation.name", (_REQUEST, _ATTEMPT), "`send` by the agent, `process` by a worker"
)
MESSAGING_OPERATION_TYPE = _attribute("messaging.operation.type", (_REQUEST, _ATTEMPT), "the same")
ROLE = _attribute("messaging.destination.name", (_REQUEST, _ATTEMPT), "the request's role")
REQUEST_ID = _attribute("messaging.message.id", (_REQUEST, _ATTEMPT), "the request's id")

OPERATION = _attribute(
    "gen_ai.operation.name",
    (_REQUEST, _CALL, _FETCH),
    "`chat`, `embeddings`, `command`, or `fetch_response` for a client that attaches",
)
PROVIDER = _attribute(
    "gen_ai.provider.name",
    (_REQUEST, _CALL, _FETCH),
    f"the lane's provider; `{SYSTEM}` for what an agent asks of the pool",
)
REQUEST_MODEL = _attribute(
    "gen_ai.request.model", (_REQUEST, _ATTEMPT, _CALL), "the model that the agent or the route asks for"
)
CONVERSATION = _attribute("gen_ai.conversation.id", (_REQUEST, _ATTEMPT), "the conversation, if the agent named one")
STREAM = _attribute("gen_ai.request.stream", (_CALL,), "`true` for a chat")
STREAM_CURSOR = _attribute(
    "gen_ai.request.stream_cursor", (_FETCH,), "the position after which the client reads; absent for the whole answer"
)
RESPONSE_ID = _attribute("gen_ai.response.id", (_FETCH,), "the id of the request that the client attaches to")
RESPONSE_MODEL = _attribute("gen_ai.response.model", _READER, "the model that answered")
FINISH_REASONS = _attribute("gen_ai.response.finish_reasons", (*_READER, _CALL), "why the answer ended")
TIME_TO_FIRST_CHUNK = _attribute(
    "gen_ai.response.time_to_first_chunk",
    (*_READER, _CALL),
    "seconds from the span's start to the first piece of the answer",
)
INPUT_TOKENS = _attribute("gen_ai.usage.input_tokens", (_REQUEST, _CALL), "tokens of the prompt")
OUTPUT_TOKENS = _attribute("gen_ai.usage.output_tokens", (_REQUEST, _CALL), "tokens of the answer")
CACHED_TOKENS = _attribute(
    "gen_ai.usage.cache_read.input_tokens",
    (_REQUEST, _CALL),
    "tokens of the prompt that the server had cached, if any",
)

ERROR_TYPE = _attribute(
    "error.type", (_REQUEST, _ATTEMPT, _CALL, _FETCH, _SCRIPT), "the error's code; absent without a failure"
)
HTTP_STATUS = _attribute(
    "http.response.status_code", (_CALL,), "the HTTP status with which the model server refused the request"
)
SERVER_ADDRESS = _attribute("server.address", (_CALL,), "the host of the lane's endpoint, or the path of its socket")
SERVER_PORT = _attribute("server.port", (_CALL,), "its port")

DB_SYSTEM = _attribute("db.system.name", (_SCRIPT,), "`redis`")
DB_OPERATION = _attribute("db.operation.name", (_SCRIPT,), "`EVALSHA`")
DB_PROCEDURE = _attribute("db.stored_procedure.name", (_SCRIPT,), "the script, such as `submit` or `finish`")

AGENT = _attribute("tokenlane.agent", (_REQUEST,), "the agent's name")
PRIORITY = _attribute("tokenlane.priority", (_REQUEST,), "`high` or `low`")
LANE = _attribute("tokenlane.lane", (_REQUEST, _ATTEMPT, _FETCH), "the lane; of `llm.request`: the lane that ended it")
WORKER = _attribute("tokenlane.worker", (_ATTEMPT,), "the worker that runs the attempt")
ATTEMPT = _attribute("tokenlane.attempt", (_ATTEMPT, "links"), "the number of the attempt")
ATTEMPTS = _attribute("tokenlane.attempts", _READER, "how often a lane started the request")
FIRST_POSITION = _attribute("tokenlane.position.first", (_TOKEN,), "the position of the batch's first delta")
LAST_POSITION = _attribute("tokenlane.position.last", (_TOKEN,), "the position of its last delta")
QUEUE_MS = _attribute(
    "tokenlane.queue_ms",
    (*_READER, _ATTEMPT),
    "milliseconds from the submission to the start of the last attempt; of an attempt: to its start, from the "
    "submission or from the end of the attempt before",
)
DISPATCHED_MS = _attribute(
    "tokenlane.dispatched_ms", (_ATTEMPT,), "milliseconds of these since a router gave the request to the lane"
)
OUTCOME = _attribute(
    "tokenlane.outcome",
    (_REQUEST, _ATTEMPT, _FETCH),
    "`completed`, `failed`, `cancelled` or `expired`; of an attempt also `requeued`, or `left` to a newer attempt; "
    "of a request also `joined`, if its idempotency key led to an earlier request",
)
STOPPED = _attribute(
    "tokenlane.stopped",
    (_ATTEMPT,),
    f"why the worker stopped the attempt: {_listed(get_args(StopReason))}, or why it could not continue the answer: "
    f"{_listed(get_args(NotResumedReason))}",
)
