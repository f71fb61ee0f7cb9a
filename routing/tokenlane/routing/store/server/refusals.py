"""What a Redis server may refuse, and what an agent, a worker and its user are told of it. One table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from redis import exceptions as redis_errors

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable, QueueFull


@dataclass(frozen=True)
class ServerRefusal:
    """One kind of refusal.

    `words`: follow "the Redis server at URL "; `{}` is the command or node that the server names. `pause_s`: when to
    retry; None if that is no use before an operator has acted.
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
        "is in protected mode and serves its own host alone: give it a password, or bind it to one"
    ),
    "MAXCLIENTS": ServerRefusal(
        "takes no more clients: raise its maxclients, or close some (CLIENT LIST shows them)", pause_s=1.0
    ),
    "OOM": ServerRefusal(
        "is out of memory: send again later; its maxmemory says how much it may use", pause_s=1.0, error=QueueFull
    ),
    "READONLY": ServerRefusal("is a replica, which takes no writes: give the URL of its master", pause_s=5.0),
    "LOADING": ServerRefusal("is loading its data from disk: it answers when that is done", pause_s=1.0),
    "BUSY": ServerRefusal("is busy with a script or function that runs for long: SCRIPT KILL ends it", pause_s=1.0),
    "MASTERDOWN": ServerRefusal("is a replica that has lost its master: give the master's URL", pause_s=1.0),
    "CLUSTERDOWN": ServerRefusal("is a node of a cluster that is down: CLUSTER INFO says why", pause_s=1.0),
    "MOVED": ServerRefusal("is a node of a cluster that does not hold this pool: {} does, give its URL", pause_s=5.0),
    "ASK": ServerRefusal("is a node of a cluster that is giving this pool to another node", pause_s=1.0),
    "TRYAGAIN": ServerRefusal("is a node of a cluster that is giving this pool to another node", pause_s=1.0),
    "CROSSSLOT": ServerRefusal("was asked for keys of two slots of its cluster at once: please report this"),
    "MISCONF": ServerRefusal(
        "takes no writes since it cannot save to its disk: see its log, and whether the disk is full", pause_s=5.0
    ),
    "NOREPLICAS": ServerRefusal("takes no writes while its replicas are away: see min-replicas-to-write", pause_s=1.0),
    "EXECABORT": ServerRefusal(
        "refused a transaction, for one of its commands: its log or ACL LOG says which", pause_s=5.0
    ),
    "UNKNOWN": ServerRefusal(
        "does not know {}: a Sentinel's port, or a proxy, cannot hold a pool; give the URL of the Redis server itself"
    ),
    "SELECT": ServerRefusal("does not have the database that the URL names: in a cluster there is only 0"),
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
"""Errors from whose text redis-py cuts off the code, the newest from more of them than version 5."""

_CODE = re.compile(r"[A-Z][A-Z]+(?= |$)")
_IN_SCRIPT = re.compile(r": -([A-Z]+ )")  # servers before 7.0: "ERR Error running script (call to f_…): …: -OOM …"
_COMMAND = re.compile(r"['`]([\w|.-]+)['`],?")
_NODE = re.compile(r"\d+ (\S+)")


def refused(error: BaseException, where: str) -> LlmError | None:
    """The error of tokenlane's for a refusal; None if the error is not one, since no server has answered.

    Args:
        where: the URL without its password.
    """
    if (refusal := refusal_of(error)) is None:
        if not isinstance(error, redis_errors.ResponseError):
            return None
        # Redis quotes arguments only of commands that it does not know.
        return PoolUnavailable(f"the Redis server at {where} refused: {error}")
    text = str(error)
    named = _NODE.search(text) if code_of(error) == "MOVED" else _COMMAND.search(text)
    words = refusal.words.replace("{}", named[1] if named else "a command of tokenlane's")
    return refusal.error(
        f"the Redis server at {where} {words}", retryable=refusal.pause_s is not None, retry_after_s=refusal.pause_s
    )


def refusal_of(error: BaseException) -> ServerRefusal | None:
    """The kind of refusal that an error of redis-py's is; None if the table has none."""
    return REFUSALS.get(code_of(error))


def code_of(error: BaseException) -> str:
    """The refusal's name in the table, for most the server's code; '' if the error is not a refusal."""
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
    return _finer(code, text)


def _finer(code: str, text: str) -> str:
    """The name for a code that stands for several refusals; other codes as they are."""
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
