"""`tokenlane requests`: lists a pool's requests, explains one of them, and cancels requests."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Annotated

import typer

from tokenlane.config.cli.output import Table, show_json
from tokenlane.config.cli.output import show as show_parts
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import age, counted
from tokenlane.config.cli.time_spans import time_span
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.settings.load import pool_name
from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_records import AttemptRecord, RequestRecord
from tokenlane.routing.support.tasks import gather_to_end
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.request_report import RequestReport, report

from . import completion
from .pool_session import pool_session

_BATCH = 100
_STYLES = {"running": "green", "delayed": "yellow", "failed": "bold red", "cancelled": "dim", "expired": "dim"}

requests = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


class _State(StrEnum):
    """The states of a request that has not ended."""

    WAITING = "waiting"
    DELAYED = "delayed"
    DISPATCHED = "dispatched"
    RUNNING = "running"


Role = Annotated[
    str | None, typer.Option(help="Only requests of this role.", metavar="ROLE", autocompletion=completion.roles)
]
OlderThan = Annotated[
    int | None,
    typer.Option(help="Only requests older than this, such as 90s, 10m or 2h.", metavar="TIME", parser=time_span),
]


@requests.command()
def ls(
    role: Role = None,
    state: Annotated[_State | None, typer.Option(help="Only requests in this state.")] = None,
    older_than: OlderThan = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """List the requests that wait or run, the oldest first."""

    async def ask(opened: Pool) -> list[RequestReport]:
        live = _selected(await opened.records.live(), role, state, older_than)
        snapshot = await take_snapshot(opened)
        return [report(snapshot, record) for record in live]

    reports = pool_session(redis, pool, ask)
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "requests": [each.document() for each in reports]})
    elif reports:
        show_parts(
            Table(
                tuple(_COLUMNS), [[cell(each) for cell in _COLUMNS.values()] for each in reports], _STYLES, splits=True
            )
        )
    else:
        which = " of these" if role or state or older_than else ""
        typer.echo(f"No request{which} waits or runs in pool {pool_name(pool)}.")


@requests.command()
def show(
    request: Annotated[str, typer.Argument(help="The request's id.", metavar="ID")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Show a request's state and attempts, what it waits for and when it may start; also for an hour after its end."""

    async def ask(opened: Pool) -> RequestReport | None:
        records = await opened.records.read([request])
        return report(await take_snapshot(opened), records[0]) if records else None

    found = pool_session(redis, pool, ask)
    if found is None:
        raise unknown_request(request, pool)
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), **found.document()})
        return
    show_report(found)


@requests.command()
def cancel(
    request: Annotated[str | None, typer.Argument(help="The id of one request.", metavar="ID")] = None,
    role: Annotated[
        str | None,
        typer.Option(help="Cancel the requests of this role.", metavar="ROLE", autocompletion=completion.roles),
    ] = None,
    older_than: OlderThan = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Cancel one request, or all requests of a role that wait or run. Their agents get the error `cancelled`."""
    if (request is None) == (role is None) or (request is not None and older_than is not None):
        raise ConfigError("Name either one request by its id, or a role with --role and perhaps --older-than.")
    ids = [request] if request is not None else _of_role(role, older_than, redis, pool)
    if role is not None and ids and not yes:
        confirm("Cancel", f"{counted(len(ids), 'request', 'requests')} of role {role!r}")

    async def ask(opened: Pool) -> dict[str, str]:
        outcomes: list[str] = []
        for first in range(0, len(ids), _BATCH):
            batch = ids[first : first + _BATCH]
            outcomes += await gather_to_end(*(opened.requests.cancel(each) for each in batch))
        return dict(zip(ids, outcomes, strict=True))

    outcomes = pool_session(redis, pool, ask) if ids else {}
    if request is not None and outcomes[request] == "unknown":
        raise unknown_request(request, pool)
    if request is not None and outcomes[request] == "ended":
        raise UserError(f"Request {request} has already ended.", {"request_id": request})
    if as_json:
        show_json({"v": 1, "pool": pool_name(pool), "requests": outcomes})
    else:
        typer.echo(_summary(outcomes.values()))


def show_report(shown: RequestReport, *more: tuple[str, str]) -> None:
    """Print a request as lines of names and texts, with these lines at the end, and its attempts as a table."""
    lines = [(name, text) for name, text in (*_lines(shown), *more) if text]
    width = max(len(name) for name, _ in lines)
    text = "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines)
    rows = [[cell(attempt) for cell in _ATTEMPT_COLUMNS.values()] for attempt in shown.record.attempts]
    show_parts(text, *([Table(tuple(_ATTEMPT_COLUMNS), rows, _STYLES)] if rows else []))


def _selected(
    records: Iterable[RequestRecord], role: str | None, state: str | None, older_than_ms: int | None
) -> list[RequestRecord]:
    """The live records that match all options."""
    return [
        record
        for record in records
        if record.state in list(_State)
        and role in (None, record.role)
        and state in (None, record.state)
        and record.age_ms >= (older_than_ms or 0)
    ]


_COLUMNS: dict[str, Callable[[RequestReport], str]] = {
    "REQUEST": lambda each: each.record.id,
    "ROLE": lambda each: each.record.role,
    "PRIORITY": lambda each: each.priority or "-",
    "STATE": lambda each: each.record.state,
    "AGE": lambda each: age(each.record.age_ms),
    "ATTEMPTS": lambda each: str(each.record.starts),
    "LANE": lambda each: each.record.lane or "-",
    "AGENT": lambda each: each.record.agent,
    "PLACE": lambda each: _place(each.place),
    "STARTS IN": lambda each: (each.place and each.place.starts_in) or "-",
    "WAITS FOR": lambda each: each.cause.brief if each.cause else "-",
}


_ATTEMPT_COLUMNS: dict[str, Callable[[AttemptRecord], str]] = {
    "LANE": lambda attempt: attempt.lane,
    "MODEL": lambda attempt: attempt.model or "-",
    "ASSIGNED": lambda attempt: f"{age(attempt.assigned_ms)} ago",
    "RAN FOR": lambda attempt: age(attempt.ran_ms),
    "ENDED": lambda attempt: "-" if attempt.ended_ms is None else f"{age(attempt.ended_ms)} ago",
    "WHY": lambda attempt: attempt.ended_by or "-",
}


def _place(place: QueuePlace | None) -> str:
    return f"{place.position} of {place.waiting}" if place else "-"


def _lines(each: RequestReport) -> Iterator[tuple[str, str]]:
    """What `show` prints about a request: names with texts, some of them empty."""
    record, cause = each.record, each.cause
    yield "request", record.id
    yield "state", _state(record)
    yield "role", f"{record.role}, priority {each.priority}" if each.priority else record.role
    yield "kind", record.kind
    yield "agent", record.agent
    yield "attempts", _attempts(record)
    yield "worker", record.worker if record.state == "running" else ""
    if record.ended_ms is None:
        yield "deadline", f"in {age(record.left_ms)}" if record.left_ms > 0 else f"{age(-record.left_ms)} ago"
    if cause is not None:
        yield "waits for", cause.brief
        yield "place", str(each.place or "")
        yield "why", cause.explanation
        yield "advice", cause.advice


def _state(record: RequestRecord) -> str:
    where = f" on lane {record.lane}" + (f" with model {record.model}" if record.model else "") if record.lane else ""
    if record.ended_ms is not None:
        code = f" with {record.code}" if record.code else ""
        return f"{record.state}{code}, {age(record.ended_ms)} ago{where}"
    if record.state == "running":
        stops = f"; its worker must end it: {record.stops}" if record.stops else ""
        return f"running{where} for {age(record.started_ms)}; submitted {age(record.age_ms)} ago{stops}"
    return f"{record.state}{where}; submitted {age(record.age_ms)} ago"


def _attempts(record: RequestRecord) -> str:
    crashes = f", {counted(record.crashes, 'crashed worker', 'crashed workers')}" if record.crashes else ""
    return f"{record.starts}{crashes}"


def _of_role(role: str | None, older_than_ms: int | None, redis: str | None, pool: str | None) -> list[str]:
    """The ids of the live requests of a role."""
    live = pool_session(redis, pool, lambda opened: opened.records.live())
    return [record.id for record in _selected(live, role, None, older_than_ms)]


def confirm(verb: str, what: str) -> None:
    """Ask whether to do this, and end the command if the answer is no."""
    if not sys.stdin.isatty():
        raise ConfigError(f"To {verb.lower()} {what} without a terminal, repeat the command with --yes.")
    typer.confirm(f"{verb} {what}?", abort=True, err=True)


def unknown_request(request: str, pool: str | None) -> UserError:
    """The error that the pool does not know a request."""
    return UserError(
        f"Pool {pool_name(pool)} does not know request {request}: it ended more than an hour ago, or belongs to "
        "another pool. `tokenlane requests ls` lists the requests that wait or run, `tokenlane failed ls` those that "
        "failed.",
        {"request_id": request},
    )


def _summary(outcomes: Iterable[str]) -> str:
    """What became of the requests, as one line."""
    count = Counter(outcomes)
    texts = [f"{counted(count['cancelled'], 'request', 'requests')} cancelled"]
    if running := count["flagged"]:
        texts.append(f"{counted(running, 'running request is', 'running requests are')} being stopped by the workers")
    return "; ".join(texts if count["cancelled"] or not running else texts[1:])
