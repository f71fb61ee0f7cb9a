"""`tokenlane failed`: lists, explains and drops the requests that failed. The producer adds the verb `redrive`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from tokenlane.config.cli.output import Table, show_json
from tokenlane.config.cli.output import show as show_parts
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import age, counted
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.settings.load import pool_name
from tokenlane.routing.contract.errors import advice_on
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_records import RequestRecord
from tokenlane.routing.watch.request_report import RequestReport

from .pool_session import pool_session
from .requests import OlderThan, Role, confirm, show_report, unknown_request

failed = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

OneRequest = Annotated[str | None, typer.Argument(help="The id of one request.", metavar="ID")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@failed.command()
def ls(
    role: Role = None,
    older_than: OlderThan = None,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """List the requests that failed in the last hour, or in the last day if the pool keeps their payloads."""
    listed = _selected(pool_session(redis, pool, lambda opened: opened.records.failed()), role, older_than)
    if as_json:
        documents = [RequestReport(record, None).document() for record in listed]
        show_json({"v": 1, "pool": pool_name(pool), "requests": documents})
    elif listed:
        rows = [[cell(record) for cell in _COLUMNS.values()] for record in listed]
        show_parts(Table(tuple(_COLUMNS), rows, {}, splits=True))
    else:
        which = " of these" if role or older_than else ""
        typer.echo(f"No request{which} failed in pool {pool_name(pool)} in the last hour.")


@failed.command()
def show(
    request: Annotated[str, typer.Argument(help="The request's id.", metavar="ID")],
    as_json: AsJson = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Show how a request failed: its attempts, why each ended, and what to do."""

    async def ask(opened: Pool) -> tuple[RequestRecord, Policy]:
        return await _find(opened, request), await opened.policies.read()

    record, policy = pool_session(redis, pool, ask)
    report, advice = RequestReport(record, None), _advice(record)
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), **report.document(), "advice": advice})
        return
    redrive = (
        f"`tokenlane failed redrive {request}`" if record.payload_kept else f"not possible: {why_not_kept(policy)}"
    )
    show_report(report, ("advice", advice), ("redrive", redrive))


@failed.command()
def drop(
    request: OneRequest = None,
    role: Role = None,
    older_than: OlderThan = None,
    every: Annotated[bool, typer.Option("--all", help="Drop the failed requests of all roles.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """List failed requests no longer, and delete the payloads that the pool keeps of them."""
    ids = [record.id for record in choose(request, role, older_than, redis, pool, every=every)]
    if request is None and ids and not yes:
        confirm("Drop", counted(len(ids), "failed request", "failed requests"))
    dropped = pool_session(redis, pool, lambda opened: opened.records.drop_failed(ids)) if ids else 0
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "dropped": dropped})
    else:
        typer.echo(f"{counted(dropped, 'failed request', 'failed requests')} dropped.")


def choose(
    request: str | None,
    role: str | None,
    older_than: int | None,
    redis: str | None,
    pool: str | None,
    *,
    every: bool = False,
) -> list[RequestRecord]:
    """Return the failed request with this id, or the failed requests that match the options.

    Args:
        every: whether the requests of all roles are chosen.

    Raises:
        UserError: the pool does not know the request, or it did not fail.
        ConfigError: the options name both or neither of a request and several requests.
    """
    if [request is not None, role is not None, every].count(True) != 1 or (request is not None and older_than):
        raise ConfigError(
            "Name either one request by its id, or a role with --role and perhaps --older-than; drop also takes --all."
        )

    async def ask(opened: Pool) -> Sequence[RequestRecord]:
        return await opened.records.failed() if request is None else [await _find(opened, request)]

    return _selected(pool_session(redis, pool, ask), role, older_than)


def _advice(record: RequestRecord) -> str:
    """What to do about a failed request. A request that workers died of may kill the next one, too."""
    advice = advice_on(record.code)
    if not record.crashes:
        return advice
    return (
        f"Workers died while they ran this request: read the workers' logs before you send it again. {advice}".rstrip()
    )


def why_not_kept(policy: Policy) -> str:
    """Why the pool does not keep the payload of a failed request, and what to do."""
    if not policy.keep_payload:
        return (
            "this pool keeps no payloads; set `keep_payload = true` under `[failed]` and run `tokenlane policy apply`, "
            "to keep those of requests that fail from then on"
        )
    return (
        "its payload is not kept: `tokenlane failed drop` deleted it, it was too large, the Redis server's memory was "
        "full, newer payloads took its place, or the request failed before `keep_payload` was set; its agent must send "
        "it again"
    )


async def _find(pool: Pool, request: str) -> RequestRecord:
    """The record of a failed request.

    Raises:
        UserError: the pool does not know the request, or it did not fail.
    """
    records = await pool.records.read([request])
    if not records:
        raise unknown_request(request, pool.keys.pool)
    if records[0].state != "failed":
        raise UserError(
            f"Request {request} has not failed, it is {records[0].state}: see `tokenlane requests show {request}`.",
            {"request_id": request},
        )
    return records[0]


def _selected(records: Sequence[RequestRecord], role: str | None, older_than_ms: int | None) -> list[RequestRecord]:
    """The failed requests that match the options. They are as old as their failure."""
    old_enough = [record for record in records if (record.ended_ms or 0) >= (older_than_ms or 0)]
    return [record for record in old_enough if role in (None, record.role)]


_COLUMNS: dict[str, Callable[[RequestRecord], str]] = {
    "REQUEST": lambda record: record.id,
    "ROLE": lambda record: record.role,
    "FAILED": lambda record: f"{age(record.ended_ms)} ago",
    "ERROR": lambda record: record.code or "-",
    "ATTEMPTS": lambda record: str(record.starts),
    "LANE": lambda record: record.lane or "-",
    "MODEL": lambda record: record.model or "-",
    "AGENT": lambda record: record.agent,
    "REDRIVE": lambda record: "yes" if record.payload_kept else "no",
}
