"""`tokenlane failed redrive`: sends failed requests again, with the payloads that the pool keeps of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import ValidationError

from tokenlane.config.cli.output import note, show, show_json
from tokenlane.config.cli.plain_text import running_text
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import age, counted
from tokenlane.config.exit_codes import FAILED, ConfigError, UserError
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.producer.client import Client
from tokenlane.producer.link.link import open_request
from tokenlane.routing.commands.failed import AsJson, OneRequest, Yes, choose, failed, why_not_kept
from tokenlane.routing.commands.pool_session import pool_session
from tokenlane.routing.commands.requests import OlderThan, Role, confirm
from tokenlane.routing.contract.answers import Answer, Usage
from tokenlane.routing.contract.errors import BadRequest, LlmError, PoolKeyMismatch, RequestLost
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.wire import Value, new_id
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.support.tasks import gather_to_end

from .client_session import client_session, explaining_wait

__all__ = ["failed"]

_AT_ONCE = 16


class _Outcome(Value):
    """How a request ended that was sent again, and after how long.

    `redriven_as`: the id under which it was sent; None if it was not sent. `message`: the error's, without the model
    server's text. `usage`: None if it failed.
    """

    request_id: str
    redriven_as: str | None
    state: str
    took_ms: int
    lane: str | None
    model: str | None
    code: str = ""
    message: str = ""
    usage: Usage | None = None

    def __str__(self) -> str:
        if self.usage is None:
            return f"{self.request_id} failed again after {age(self.took_ms)}: {self.message}"
        model = f" with model {self.model}" if self.model else ""
        tokens = f"{self.usage.prompt_tokens} tokens in, {self.usage.completion_tokens} out"
        return f"{self.request_id} completed on lane {self.lane}{model} after {age(self.took_ms)}: {tokens}"


@failed.command()
def redrive(
    request: OneRequest = None,
    role: Role = None,
    older_than: OlderThan = None,
    show_answer: Annotated[bool, typer.Option("--show", help="Print the answer to one chat on a terminal.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Send failed requests again, and report how each ends. Their agents have gone, so nobody receives the answers."""
    if show_answer and (request is None or as_json or not sys.stdout.isatty()):
        raise ConfigError(
            "--show prints the answer to one chat on a terminal: name the request by its id, leave out --json, and do "
            "not redirect the output."
        )
    ids = _choose_kept(request, role, older_than, redis, pool)
    if request is None and ids and not yes:
        confirm("Redrive", counted(len(ids), "failed request", "failed requests"))

    async def ask(client: Client) -> list[_Outcome]:
        server, turns = find_pool(redis), asyncio.Semaphore(_AT_ONCE)

        async def redrive_in_turn(opened: Pool, request_id: str) -> _Outcome:
            async with turns:
                outcome = await _redrive(client, opened, request_id, show_answer=show_answer)
            if not as_json:
                show(str(outcome))
            return outcome

        async with connect(server.url, pool_name(pool), keys=server.keys) as opened:
            return await gather_to_end(*(redrive_in_turn(opened, request_id) for request_id in ids))

    outcomes = client_session(ask, redis, pool) if ids else []
    completed = sum(outcome.state == "completed" for outcome in outcomes)
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "requests": [outcome.model_dump() for outcome in outcomes]})
    elif request is None:
        show(f"{counted(len(ids), 'failed request', 'failed requests')} redriven, {completed} completed.")
    if completed < len(ids):
        raise typer.Exit(FAILED)


def _choose_kept(
    request: str | None, role: str | None, older_than: int | None, redis: str | None, pool: str | None
) -> list[str]:
    """The ids of the requests to send again. A request whose workers died may kill others, so it must be named."""
    chosen = choose(request, role, older_than, redis, pool)
    kept = [record for record in chosen if record.payload_kept]
    if chosen and not kept:
        policy = pool_session(redis, pool, lambda opened: opened.policies.read())
        which = f"Request {request}" if request else f"The failed requests of role {role!r}"
        raise UserError(f"{which} cannot be sent again: {why_not_kept(policy)}.", {"request_id": request})
    ids = [record.id for record in kept if request or not record.crashes]
    if left_out := len(kept) - len(ids):
        what = counted(left_out, "request is", "requests are")
        note(f"{what} left out, because workers died while they ran it: redrive each by its id.", err=True)
    return ids


async def _redrive(client: Client, pool: Pool, request_id: str, *, show_answer: bool) -> _Outcome:
    """Send a failed request again under a new id, and wait for its end. If it completes, it is no longer listed as
    failed; if it fails again, it stays listed under its first id alone."""
    clock, new = asyncio.get_running_loop().time, new_id()
    sent_as: str | None = None

    def on_sent() -> None:
        nonlocal sent_as
        sent_as = new
        note(f"{request_id} is redriven as {new}", err=True)

    began_at, facts = clock(), dict[str, object](request_id=request_id)
    try:
        answer = await _send(client, pool, request_id, new, on_sent, show_answer=show_answer)
    except LlmError as error:
        facts |= {"state": "failed", "message": str(error), "code": error.code}
        facts |= {"lane": error.lane, "model": error.model}
        await _drop(pool, new)
    else:
        facts |= {"state": "completed", "lane": answer.lane, "model": answer.model, "usage": answer.usage}
        await _drop(pool, request_id)
    return _Outcome.model_validate({**facts, "redriven_as": sent_as, "took_ms": int(1000 * (clock() - began_at))})


async def _drop(pool: Pool, request_id: str) -> None:
    """Take a request off the list of failed requests. If the pool does not answer, it stays listed."""
    try:
        await pool.records.drop_failed([request_id])
    except LlmError as error:
        note(f"{request_id} may still be listed as failed: {error}", err=True)


async def _send(
    client: Client, pool: Pool, request_id: str, new: str, on_sent: Callable[[], None], *, show_answer: bool
) -> Answer:
    """Send a failed request again, with a new deadline and without attempts. Returns its answer.

    Args:
        new: the id under which it is sent.
        on_sent: called when the pool has accepted it.

    Raises:
        LlmError: it failed; or its payload is no longer kept, or cannot be opened or read.
    """
    try:
        if (kept := await pool.records.kept_payload(request_id)) is None:
            raise RequestLost("Its payload is no longer kept: its agent must send it again.")
        envelope, payload = kept
        if not pool.keychain.has_key(envelope.key_id):
            raise PoolKeyMismatch(
                f"Its payload is sealed with key {envelope.key_id}, which this host does not have: redrive it on a "
                "host with this key; if the key is gone since `tokenlane key rotate --drop-old`, drop the request."
            )
        request = KINDS[envelope.kind].request.model_validate_json(pool.keychain.unseal(envelope, payload))
    except ValidationError:
        raise BadRequest(
            "This version of tokenlane cannot read it: run the same version on all hosts, and redrive it then."
        ) from None
    changes: dict[str, object] = {"id": new, "client": client.link.client, "time_to_live_ms": request.time_to_live_ms}
    changes |= {"key_id": None, "idempotency": None, "trace": {}}
    composed = envelope.model_copy(update=changes), request.model_copy(update={"id": new}).to_wire()

    def explain(why: str) -> None:
        note(f"{request_id} waits: {why}", err=True)

    may_restart = isinstance(request, ChatRequest) and request.on_interrupt == "restart"
    async with (
        open_request(client.link, lambda: composed, may_restart=may_restart) as sent,
        explaining_wait(sent, explain),
    ):
        on_sent()
        while show_answer and (delta := await sent.next()) is not None:
            typer.echo(running_text(delta.text), nl=False)
        answer = await sent.finish()
    if show_answer:
        typer.echo()
    return answer
