"""The table of reasons why a Redis server refuses a command, with tokenlane's error and advice for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from redis import exceptions as redis_errors

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable, QueueFull


@dataclass(frozen=True)
class ServerRefusal:
    """One kind of refusal.

    `words`: the end of a message that begins "the Redis server at URL "; `{}` stands for the command or node that the
    server names. `pause_s`: after how many seconds to retry; None if retrying cannot help until an operator acts.
    """

    words: str
    pause_s: float | None = None
    error: type[LlmError] = PoolUnavailable


REFUSALS: Mapping[str, ServerRefusal] = {
    "NOAUTH": ServerRefusal(
        "wants a password: put it into the URL, redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST"
    ),
    "WRONGPASS": ServerRefusal(
        "does not accept this user and password: check both in the URL, redis://USER:PASSWORD@HOST"
    ),
    "NOPERM command": ServerRefusal(
        "does not let this user run {}: allow it with ACL SETUSER (docs/security.md has a rule)"
    ),
    "NOPERM key": ServerRefusal(
        "does not let this user touch the pool's keys: allow them with ACL SETUSER, ~{main}:* for the pool 'main'"
    ),
    "NOPERM channel": ServerRefusal(
        "does not let this user use the pool's channels: allow them with ACL SETUSER, &{main}:* for the pool 'main'; "
        "without a rule a new user may use none"
    ),
    "DENIED": ServerRefusal(
        "is in protected mode and accepts connections from its own host only: set a password on the server, and put it "
        "into the URL"
    ),
    "MAXCLIENTS": ServerRefusal(
        "takes no more clients: raise its maxclients, or close some (CLIENT LIST shows them)", pause_s=1.0
    ),
    "OOM": ServerRefusal(
        "is out of memory: send the request again later, or raise the server's maxmemory", pause_s=1.0, error=QueueFull
    ),
    "READONLY": ServerRefusal("is a replica and accepts no writes: use the URL of its primary", pause_s=5.0),
    "LOADING": ServerRefusal("is loading its data from disk: try again when it has finished", pause_s=1.0),
    "BUSY": ServerRefusal("is busy with a long-running script or function: SCRIPT KILL ends a script", pause_s=1.0),
    "MASTERDOWN": ServerRefusal("is a replica that has lost its primary: use the primary's URL", pause_s=1.0),
    "CLUSTERDOWN": ServerRefusal("is a node of a cluster that is down: CLUSTER INFO shows why", pause_s=1.0),
    "MOVED": ServerRefusal(
        "is a node of a Redis Cluster (node {} has the pool): use a server outside a cluster", pause_s=5.0
    ),
    "ASK": ServerRefusal("is a cluster node that is moving this pool to another node", pause_s=1.0),
    "TRYAGAIN": ServerRefusal("is a cluster node that is moving this pool to another node", pause_s=1.0),
    "CROSSSLOT": ServerRefusal("refused keys of two cluster slots in one command: this is a bug, please report it"),
    "MISCONF": ServerRefusal(
        "accepts no writes because it cannot save to disk: read its log, and check whether the disk is full",
        pause_s=5.0,
    ),
    "NOREPLICAS": ServerRefusal(
        "accepts no writes while its replicas are disconnected: check min-replicas-to-write", pause_s=1.0
    ),
    "EXECABORT": ServerRefusal(
        "refused a transaction because of one of its commands: its log or ACL LOG shows which", pause_s=5.0
    ),
    "UNKNOWN": ServerRefusal(
        "does not know {}: a Sentinel or a proxy cannot hold a pool; use the URL of the Redis server itself"
    ),
    "SELECT": ServerRefusal("does not have the database in the URL: a cluster has only database 0"),
}

_CLASSES: Mapping[type[Exception], str] = {
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ExecAbortError: "EXECABORT",
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.NoScriptError: "NOSCRIPT",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.NoPermissionError: "NOPERM",
    redis_errors.MovedError: "MOVED",
    redis_errors.AskError: "ASK",
    redis_errors.TryAgainError: "TRYAGAIN",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
    redis_errors.ClusterCrossSlotError: "CROSSSLOT",
    redis_errors.MasterDownError: "MASTERDOWN",
}
"""Errors from whose text redis-py removes the code. The newest redis-py does so for more of them than version 5."""

_CODE = re.compile(r"[A-Z][A-Z]+(?= |$)")
_IN_SCRIPT = re.compile(r": -([A-Z]+ )")  # servers before 7.0: "ERR Error running script (call to f_…): …: -OOM …"
_COMMAND = re.compile(r"['`]([\w|.-]+)['`],?")
_NODE = re.compile(r"\d+ (\S+)")


def translate_refusal(error: BaseException, where: str) -> LlmError | None:
    """Translate a refusal into tokenlane's error; None if the error is no refusal, since no server has replied.

    Args:
        where: the server's URL without the password.
    """
    if (refusal := find_refusal(error)) is None:
        if not isinstance(error, redis_errors.ResponseError):
            return None
        # The text is safe to show: Redis quotes arguments only for unknown commands.
        return PoolUnavailable(f"the Redis server at {where} refused: {error}")
    text = str(error)
    named = _NODE.search(text) if refusal_code(error) == "MOVED" else _COMMAND.search(text)
    words = refusal.words.replace("{}", named[1] if named else "a command that tokenlane uses")
    if isinstance(error, redis_errors.AuthenticationError) and "://***@" in where:  # a user's name without a password
        words += ". Did you mean redis://:PASSWORD@HOST?"
    return refusal.error(
        f"the Redis server at {where} {words}", retryable=refusal.pause_s is not None, retry_after_s=refusal.pause_s
    )


def find_refusal(error: BaseException) -> ServerRefusal | None:
    """The table's entry for an error from redis-py; None if the table has no entry."""
    return REFUSALS.get(refusal_code(error))


def refusal_code(error: BaseException) -> str:
    """The refusal's key in the table, in most cases the server's error code; '' if the error is not a refusal."""
    text = str(error)
    if isinstance(error, redis_errors.AuthenticationError):
        return "NOAUTH" if "required" in text else "WRONGPASS"
    if isinstance(error, redis_errors.ConnectionError) and "max number of clients" in text:
        return "MAXCLIENTS"
    if not isinstance(error, redis_errors.ResponseError | redis_errors.BusyLoadingError):
        return ""
    code = next((code for kind, code in _CLASSES.items() if type(error) is kind), "")
    if not code and (inner := _IN_SCRIPT.search(text)):
        text = text[inner.start(1) :]
    if not code and (written := _CODE.match(text)):
        code = written[0]
    return _refined_code(code, text)


def _refined_code(code: str, text: str) -> str:
    """The table's key for an error code. Some codes stand for several refusals, which the text distinguishes."""
    low = text.lower()
    if code == "NOPERM" or "acl failure in script" in low or "no permission" in low:
        return "NOPERM channel" if "channel" in low else "NOPERM key" if " key" in low else "NOPERM command"
    if "unknown command" in low:
        return "UNKNOWN"
    if "max number of clients" in low:
        return "MAXCLIENTS"
    if "db index is out of range" in low or "select is not allowed" in low:
        return "SELECT"
    return code
