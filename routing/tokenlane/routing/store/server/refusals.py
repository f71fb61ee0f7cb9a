"""The reasons why a Redis server refuses a command: a table with tokenlane's error and advice for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from redis import exceptions as redis_errors

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable, QueueFull


@dataclass(frozen=True)
class ServerRefusal:
    """A reason why the server refuses.

    Attributes:
        text: the end of the message, after "the Redis server at URL". `{}` stands for the node that the server names,
            or the command or script that it refused; `{user}` for the user.
        pause_s: after how many seconds to retry; None if retrying does not help until an operator acts.
        error: the type of the error.
    """

    text: str
    pause_s: float | None = None
    error: type[LlmError] = PoolUnavailable


_OTHER_USER = (
    "put another user into the URL (docs/redis.md has one for each kind of process), or allow it with ACL SETUSER"
)

REFUSALS: Mapping[str, ServerRefusal] = {
    "NOAUTH": ServerRefusal(
        "requires a password: put it into the URL, redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST"
    ),
    "WRONGPASS": ServerRefusal(
        "does not accept this user and password: check both in the URL, redis://USER:PASSWORD@HOST"
    ),
    "NOPERM command": ServerRefusal(f"does not let {{user}} run {{}}: {_OTHER_USER}"),
    "NOPERM key": ServerRefusal(
        f"does not let {{user}} run {{}}, which uses keys that this user may not access: {_OTHER_USER}"
    ),
    "NOPERM channel": ServerRefusal(
        f"does not let {{user}} run {{}}, which uses channels that this user may not access: {_OTHER_USER}"
    ),
    "DENIED": ServerRefusal(
        "is in protected mode and accepts only connections from its own host: set a password on the server, and put "
        "the password into the URL"
    ),
    "MAXCLIENTS": ServerRefusal(
        "accepts no more clients: raise its maxclients, or close some clients (CLIENT LIST shows them)", pause_s=1.0
    ),
    "OOM": ServerRefusal(
        "is out of memory: send the request again later, or raise the server's maxmemory", pause_s=1.0, error=QueueFull
    ),
    "READONLY": ServerRefusal("is a replica and accepts no writes: use the URL of its primary", pause_s=5.0),
    "LOADING": ServerRefusal("is still loading its data from disk: try again later", pause_s=1.0),
    "BUSY": ServerRefusal(
        "is busy with a long-running script or function: wait, or end it with SCRIPT KILL or FUNCTION KILL", pause_s=1.0
    ),
    "MASTERDOWN": ServerRefusal("is a replica that has lost its primary: use the URL of the primary", pause_s=1.0),
    "CLUSTERDOWN": ServerRefusal("is a node of a Redis Cluster that is down: use CLUSTER INFO to see why", pause_s=1.0),
    "MOVED": ServerRefusal(
        "is a node of a Redis Cluster whose node {} holds the pool: use a server outside a cluster", pause_s=5.0
    ),
    "ASK": ServerRefusal("is moving this pool to another node of its Redis Cluster: try again later", pause_s=1.0),
    "TRYAGAIN": ServerRefusal("is moving this pool to another node of its Redis Cluster: try again later", pause_s=1.0),
    "CROSSSLOT": ServerRefusal(
        "refused a command with keys in two cluster slots: this is a bug in tokenlane, please report it"
    ),
    "MISCONF": ServerRefusal(
        "accepts no writes because it cannot save its data to disk: check its log, and whether the disk is full",
        pause_s=5.0,
    ),
    "NOREPLICAS": ServerRefusal(
        "accepts no writes while its replicas are disconnected: connect them, or lower min-replicas-to-write",
        pause_s=1.0,
    ),
    "EXECABORT": ServerRefusal(
        "refused a transaction because of one of its commands: check the server's log and ACL LOG", pause_s=5.0
    ),
    "UNKNOWN": ServerRefusal(
        "does not know {}: use the URL of a Redis server, or for a Sentinel redis+sentinel://HOST:PORT/SERVICE"
    ),
    "SELECT": ServerRefusal(
        "does not have the database in the URL: use a lower number (a cluster has only database 0)"
    ),
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
"""The errors of redis-py whose text no longer contains the code. The newest version has more of them than version 5."""

_CODE = re.compile(r"[A-Z][A-Z]+(?= |$)")
_IN_SCRIPT = re.compile(r": -([A-Z]+ )")  # servers before 7.0: "ERR Error running script (call to f_…): …: -OOM …"
_COMMAND = re.compile(r"['`]([\w|.-]+)['`],?")
_NODE = re.compile(r"\d+ (\S+)")


def translate_refusal(error: BaseException, where: str, user: str = "", action: str = "") -> LlmError | None:
    """Translate a refusal into one of tokenlane's errors; None if the error is no refusal, because no server replied.

    Args:
        where: the server's URL without the password.
        user: the name of the user; '' if it is unknown.
        action: the command or script that the server refused; '' if it is unknown.
    """
    if (refusal := find_refusal(error)) is None:
        if not isinstance(error, redis_errors.ResponseError):
            return None
        # The text is safe to show: Redis quotes arguments only for unknown commands.
        return PoolUnavailable(f"The Redis server at {where} refused a command: {str(error).rstrip('.')}.")
    text = str(error)
    named = _NODE.search(text) if refusal_code(error) == "MOVED" else _COMMAND.search(text)
    what = named[1] if named else action or "a command that tokenlane uses"
    words = refusal.text.replace("{}", what).replace("{user}", f"user {user!r}" if user else "this user")
    if (
        isinstance(error, redis_errors.AuthenticationError) and "://***@" in where
    ):  # the URL has a user, but no password
        words += ". Did you mean redis://:PASSWORD@HOST?"
    else:
        words += "."
    return refusal.error(
        f"The Redis server at {where} {words}", retryable=refusal.pause_s is not None, retry_after_s=refusal.pause_s
    )


def find_refusal(error: BaseException) -> ServerRefusal | None:
    """The entry of `REFUSALS` for an error from redis-py; None if there is no entry."""
    return REFUSALS.get(refusal_code(error))


def refusal_code(error: BaseException) -> str:
    """The key of an error in `REFUSALS`, which in most cases is the server's error code; '' if it is no refusal."""
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
    """The key in `REFUSALS` for an error code. Some codes have several meanings, which the text distinguishes."""
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
