"""A witness of every call of a script: it compares the requests before and after."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.integration.life import ENDED, PREFIX, raw
from tests.store.states import CHANGES, Change

from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.values import Reply

Fields = Mapping[str, str]
Argument = bytes | str | int

_OF_ONE: Final = {
    "submit": 0,
    "dispatch": 0,
    "start": 0,
    "requeue": 0,
    "finish": 0,
    "forget": 0,
    "cancel": 0,
    "attach": 1,
}
"""The scripts that may touch one request only, and which of their arguments is its id."""
_OF_MANY: Final = ("renew", "sweep", "check", "purge")
_COUNT: Final = ("purge", "stop_work", "finish")
"""The scripts that answer how much they changed, so that the second of two equal calls answers otherwise."""
_RENEWED_FROM, _PER_REQUEST = 13, 7


class Witness:
    """Sees every call of a pool's scripts.

    `requests`: the ids of all requests that the test has made. `twice`: whether each call is sent twice. `seen`: how
    often each change of state was seen. `sent`: all calls so far, each with the name of its script. `resubmitted`: how
    often each request was submitted again after its end.
    """

    def __init__(self, pool: Pool) -> None:
        self._redis = raw(pool)
        self._send = pool.scripts.run
        self._lock = asyncio.Lock()
        self.requests: list[str] = []
        self.twice = False
        self.seen: dict[Change, int] = {}
        self.sent: list[tuple[str, tuple[Argument, ...]]] = []
        self.resubmitted: Counter[str] = Counter()

    async def run(self, name: str, *args: Argument, **options: Any) -> Reply:
        """Call the script, and check what it did."""
        async with self._lock:
            before = await self.fields()
            reply = await self._send(name, *args, **options)
            after = await self.fields()
            self._judge(name, [_text(arg) for arg in args], reply, before, after)
            if self.twice and name != "sweep":  # a second sweep acts on what the first one flagged
                again = await self._send(name, *args, **options)
                ends_some = name == "check" and before != after  # which changes what the check says of others
                if name not in _COUNT and not ends_some:
                    assert _in_order(name, again) == _in_order(name, reply), name
                assert await self.fields() == after, (name, args)
            self.sent.append((name, args))
            return reply

    async def fields(self) -> dict[str, Fields]:
        """The hashes of all requests that the server knows."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for request_id in self.requests:
                pipe.hgetall(f"{PREFIX}request:{request_id}")
            hashes = await pipe.execute()
        return {
            request_id: {name.decode(): value.decode() for name, value in fields.items()}
            for request_id, fields in zip(self.requests, hashes, strict=True)
            if fields
        }

    def _judge(
        self, name: str, args: list[str], reply: Reply, before: Mapping[str, Fields], after: Mapping[str, Fields]
    ) -> None:
        touched = [it for it in self.requests if before.get(it) != after.get(it)]
        for request_id in touched:
            self._judge_change(name, before.get(request_id, {}), after.get(request_id, {}))
            self.resubmitted[request_id] += before.get(request_id, {}).get("state") in ENDED
        if name in _OF_ONE:
            request_id = args[_OF_ONE[name]]
            assert touched in ([], [request_id]), (name, args)
            judge = _JUDGES.get(name)
            if judge is not None:
                judge(args, reply, before.get(request_id, {}), after.get(request_id, {}))
        elif name == "renew":
            _judge_renewals(args, reply, before, after)
        else:
            assert not touched or name in _OF_MANY or name == "dispatch", (name, touched)

    def _judge_change(self, name: str, before: Fields, after: Fields) -> None:
        """What holds for every request that a script touched."""
        was, now = before.get("state", "nothing"), after.get("state", "nothing")
        if was != now:
            change = Change(name, was, now)
            assert change in CHANGES, change
            self.seen[change] = self.seen.get(change, 0) + 1
        if was in ENDED:
            assert (name, was) == ("submit", "completed"), (name, before, after)
            assert int(before["attempt"]) <= int(after["attempt"])
            return
        assert now != "nothing" or (name, before["entry"]) == ("forget", "")
        if before and after:
            earlier, newest = int(before["attempt"]), int(after["attempt"])
            assert earlier < newest if (was, now) == ("waiting", "dispatched") else earlier == newest, (before, after)
            assert 0 <= int(after["crashes"]) - int(before["crashes"]) <= 1
            assert abs(int(after["starts"]) - int(before["starts"])) <= 1
            assert int(after["starts"]) >= 0


def _judge_dispatch(args: list[str], reply: Any, before: Fields, after: Fields) -> None:
    if reply[0] != b"dispatched":
        assert (after.get("state"), after.get("attempt")) == (before.get("state"), before.get("attempt"))
        assert reply[0] != b"gone" or (before.get("state"), before.get("queue")) != ("waiting", args[1])
    elif before["state"] == "waiting":
        assert (after["lane"], after["model"], int(after["attempt"])) == (args[3], args[4], reply[1])
    else:
        assert (before["token"], int(before["attempt"]), after) == (args[5], reply[1], before)


def _judge_start(args: list[str], reply: Any, before: Fields, after: Fields) -> None:
    _, attempt, worker = args
    is_mine = before.get("attempt") == attempt and before.get("entry") != ""
    if is_mine and before["state"] == "dispatched":
        assert (reply[0] == b"run") == (after["state"] == "running")
        assert after["state"] != "running" or int(after["starts"]) == int(before["starts"]) + 1
    elif reply[0] == b"run":
        assert is_mine
        assert after == before
    if reply[0] == b"run":
        assert (after["attempt"], after["worker"], reply[1]) == (attempt, worker, int(attempt))
    elif not is_mine:
        assert after == before


def _judge_requeue(args: list[str], reply: Any, before: Fields, after: Fields) -> None:
    _, attempt, worker, queue, *_ = args
    has_attempt = before.get("state") in ("dispatched", "running")
    is_mine = before.get("attempt") == attempt and has_attempt
    if worker and before.get("state") == "running":
        is_mine = is_mine and before["worker"] == worker
    if not before:
        assert not after
        assert reply == (b"lost" if worker else b"stale")
    elif not is_mine:
        assert after == before
        assert reply == b"stale" or (before["requeued"], before["state"].encode()) == (attempt, reply)
    elif worker:
        assert reply in (after["state"].encode(), b"spent", b"lost")
    if after != before:
        assert reply == after["state"].encode()
        assert after["state"] in ENDED or after["queue"] == (queue or before["queue"])
    has_crashed = not worker and before.get("state") == "running" and after != before
    assert int(after.get("crashes", 0)) == int(before.get("crashes", 0)) + has_crashed


def _judge_finish(args: list[str], reply: Any, before: Fields, after: Fields) -> None:
    _, attempt, worker, ending, end, _, _, *refused = args
    if not worker:
        assert after == before or before["attempt"] == attempt
        assert after == before or before["state"] in (("waiting", "delayed") if refused else ("dispatched", "running"))
        assert after == before or before["state"] != "running" or int(after["crashes"]) == int(before["crashes"]) + 1
        return
    is_mine = (before.get("attempt"), before.get("worker")) == (attempt, worker)
    if is_mine and before["state"] == "running":
        assert (after["state"], after["end"]) == (ending, end)
        assert reply in (b"done", b"missed")
    else:
        assert after == before
        refusal = b"stale" if before else b"unknown"
        assert reply == (b"missed" if is_mine and before["state"] == ending else refusal)


def _judge_cancel(_: list[str], reply: Any, before: Fields, after: Fields) -> None:
    match reply:
        case b"cancelled":
            assert after["state"] == "cancelled"
        case b"flagged":
            assert after["state"] == "running"
            assert "cancel" in after
        case b"unknown":
            assert not before
        case _:
            assert after == before


def _judge_submit(args: list[str], reply: Any, before: Fields, after: Fields) -> None:
    lacks_end = before.get("state") == "completed" and before["client"] == args[4]
    if after != before:
        assert after["state"] == "waiting"
        assert not before or (lacks_end and int(before["attempt"]) <= int(args[7]))
    assert reply[0] != b"accepted" or after


_JUDGES: Final[Mapping[str, Callable[[list[str], Any, Fields, Fields], None]]] = {
    "submit": _judge_submit,
    "dispatch": _judge_dispatch,
    "start": _judge_start,
    "requeue": _judge_requeue,
    "finish": _judge_finish,
    "cancel": _judge_cancel,
}


def _judge_renewals(args: list[str], reply: Any, before: Mapping[str, Fields], after: Mapping[str, Fields]) -> None:
    """Who runs the newest attempt keeps it, and nobody else does."""
    worker = args[0]
    outcomes = [outcome.decode() for outcome in reply[4:]]
    for start, outcome in zip(range(_RENEWED_FROM, len(args), _PER_REQUEST), outcomes, strict=True):
        request_id, attempt = args[start : start + 2]
        known = before.get(request_id)
        mine = known is None or (known["state"], known["attempt"], known.get("worker")) == ("running", attempt, worker)
        assert (outcome != "stale") == mine, (args, outcome, known)
        assert after[request_id]["state"] == "running" or after[request_id] == known
        assert outcome in ("mine", "stale") or after[request_id]["cancel"] == outcome


def _in_order(name: str, reply: Any) -> object:
    """The reply with the strangers of a check, which Redis draws at random, in order."""
    return [*reply[:5], sorted(reply[5]), *reply[6:]] if name == "check" else reply


def _text(arg: Argument) -> str:
    return arg.decode("utf-8", "replace") if isinstance(arg, bytes) else str(arg)
