"""Asks Sentinels for the address of a service's primary, each time a connection to it is opened.

All Sentinels are asked at once. redis-py's own `Sentinel` asks one after the other, so that a dead host would delay
every connection by a time-out. As soon as most of them have answered, the newest configuration wins, because a Sentinel
that was cut off names the old primary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from redis import exceptions as redis_errors

from tokenlane.config.host.sentinel_urls import SentinelUrl
from tokenlane.routing.store.replies.values import Reply

from .redis_py import pubsub_connection
from .timings import Timings

Address = tuple[str, int]
"""A host and a port."""


class NoPrimary(OSError):
    """The Sentinels name no primary. An `OSError`, so that connections retry as if the primary did not answer.

    `answers`: the answers of the Sentinels that were asked.
    """

    def __init__(self, answers: Sequence[SentinelAnswer]) -> None:
        super().__init__("the Sentinels name no primary")
        self.answers = answers


@dataclass(frozen=True)
class SentinelAnswer:
    """What a Sentinel answered.

    Attributes:
        sentinel: the Sentinel's own address.
        primary: the address of the service's primary; None if the Sentinel does not know the service, or failed.
        epoch: the number of the configuration, which each failover raises.
        flags: the primary's state, such as `master`, `s_down` or `o_down`.
        replicas: how many replicas of the primary the Sentinel knows.
        error: why there is no answer; None if the Sentinel has answered.
    """

    sentinel: Address
    primary: Address | None = None
    epoch: int = 0
    flags: tuple[str, ...] = ()
    replicas: int = 0
    error: redis_errors.RedisError | OSError | None = None


class Sentinels:
    """The Sentinels of a URL.

    Attributes:
        url: the parts of the URL.
        address: the primary's address, as the Sentinels named it last; None before they were asked.
    """

    def __init__(self, url: SentinelUrl, shown: str, timings: Timings) -> None:
        self.url = url
        self.address: Address | None = None
        self._shown = shown
        self._timings = timings
        self._asking = asyncio.Lock()
        self._rounds = 0
        self._outcome: Address | NoPrimary | None = None

    def __str__(self) -> str:
        """The URL without secrets."""
        return self._shown

    @property
    def connection_url(self) -> str:
        """The URL for redis-py, whose address is replaced by the primary's before each connection. A secret."""
        return self.url.server_url("primary", 1)

    async def find_primary(self) -> Address:
        """The address of the primary. Tasks that ask at the same time share one answer.

        Raises:
            NoPrimary: no Sentinel answers, or none knows the service.
        """
        # Rounds are counted and not timed: the clock of uvloop stands still for a millisecond, in which a command can
        # fail and the next one begin.
        seen = self._rounds
        async with self._asking:
            if self._outcome is None or self._rounds == seen:
                answers = await self._ask_most()
                newest = max((it for it in answers if it.primary), key=lambda it: it.epoch, default=None)
                self._outcome = NoPrimary(answers) if newest is None or newest.primary is None else newest.primary
                self._rounds += 1
            if isinstance(self._outcome, NoPrimary):
                raise NoPrimary(self._outcome.answers)
            self.address = self._outcome
            return self.address

    async def ask_all(self) -> tuple[SentinelAnswer, ...]:
        """Ask every Sentinel, and wait for all answers."""
        return tuple(await asyncio.gather(*map(self._ask, self.url.addresses, self.url.sentinel_urls)))

    async def _ask_most(self) -> list[SentinelAnswer]:
        """Ask every Sentinel, and wait until more than half have named a primary, or all have answered."""
        named = zip(self.url.addresses, self.url.sentinel_urls, strict=True)
        tasks = [asyncio.create_task(self._ask(*it), name="tokenlane asks a Sentinel") for it in named]
        answers: list[SentinelAnswer] = []
        try:
            for answer in asyncio.as_completed(tasks):
                answers.append(await answer)
                if 2 * sum(it.primary is not None for it in answers) > len(tasks):
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return answers

    async def _ask(self, sentinel: Address, url: str) -> SentinelAnswer:
        try:
            connection = pubsub_connection(url, self._timings)
            try:
                async with asyncio.timeout(self._timings.sentinel_s):
                    await connection.connect()  # type: ignore[no-untyped-call]  # in redis-py 5
                    await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.url.service)
                    address = await connection.read_response()
                    if address is None:
                        return SentinelAnswer(sentinel)
                    await connection.send_command("SENTINEL", "MASTER", self.url.service)
                    return _parse_answer(sentinel, address, await connection.read_response())
            finally:
                await connection.disconnect(nowait=True)
        except ValueError as error:
            return SentinelAnswer(sentinel, error=redis_errors.InvalidResponse(str(error)))
        except (redis_errors.RedisError, OSError) as error:
            return SentinelAnswer(sentinel, error=error)


def _parse_answer(sentinel: Address, address: Reply, details: Reply) -> SentinelAnswer:
    """Parse the replies to `SENTINEL GET-MASTER-ADDR-BY-NAME` and `SENTINEL MASTER`.

    Raises:
        ValueError: they are not a Sentinel's.
    """
    match address, details:
        case [bytes(host), bytes(port)], [*texts] if port.isdigit():
            named = {
                str(name, "utf-8", "replace"): str(value, "utf-8", "replace")
                for name, value in zip(texts[::2], texts[1::2], strict=False)
                if isinstance(name, bytes) and isinstance(value, bytes)
            }
            epoch, replicas = (int(named.get(name, "0")) for name in ("config-epoch", "num-slaves"))
            flags = tuple(named.get("flags", "").split(","))
            return SentinelAnswer(sentinel, (host.decode("utf-8", "replace"), int(port)), epoch, flags, replicas)
    raise ValueError("not the answer of a Sentinel")
