"""`tokenlane key`: the keys that seal a pool, shown, made and changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tokenlane.config.cli.output import show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.host.paths import absolute
from tokenlane.config.host.pool_key_files import FILE_NAME, KeyRing, PoolKey, beside, read_key_file, write_key_file
from tokenlane.config.host.up_registry import data_dir
from tokenlane.config.settings.load import NoPool, find_pool, pool_keys, pool_name
from tokenlane.config.settings.values import RedisSettings
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import WorkerStatus

from .pool_session import pool_session

_LOOK_AGAIN_S = 0.2
_HAND_OUT = (
    "Workers that read the key file have it with their next beat. Elsewhere set TOKENLANE_POOL_KEY to what `tokenlane "
    "key show --reveal` prints, workers first, and restart; `tokenlane status --check` names those that lack it."
)


class _NoKey(ConfigError):
    """No key was given, and none is found."""


key = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_File = Annotated[Path | None, typer.Option(help="The key file; default the one in use, else that of `tokenlane up`.")]


@key.command()
def show(
    reveal: Annotated[bool, typer.Option(help="Print the keys themselves, to be pasted on another machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    file: _File = None,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Print the ids of the keys in use here, and of those the pool is sealed with."""
    try:
        ring = _ring(file, redis)
    except _NoKey as error:
        raise _with_the_pool_s(error, redis, pool) from None
    if reveal and not as_json:
        typer.echo(ring.reveal())
        return
    prepared = [key.id for key in ring.prepared]
    source = str(ring.file or "TOKENLANE_POOL_KEY")
    announced: Sequence[str] | None = None
    not_asked = None
    try:
        announced = pool_session(find_pool(redis), pool_name(pool), lambda opened: opened.sealing.key_ids())
    except ConfigError as error:
        not_asked = str(error)
    if as_json:
        here = {"ids": ring.ids, "prepared": prepared, "source": source}
        there = {"pool": pool_name(pool), "sealed_with": announced, "not_asked": not_asked}
        show_json({**here, **there, **({"keys": ring.reveal()} if reveal else {})})
        return
    sealed = f"sealed with {_listed(announced)}" if announced else "not sealed"
    typer.echo(f"here    {_listed(ring.ids)}, from {source}{'; prepared: ' if prepared else ''}{_listed(prepared)}")
    typer.echo(f"pool    {f'not asked: {not_asked}' if not_asked else f'{pool_name(pool)} is {sealed}'}")


@key.command()
def new(
    file: Annotated[Path, typer.Option(help="Where to write it; nothing is overwritten.")],
    announce: Annotated[bool, typer.Option(help="Seal the pool with it; the pool must not be in use.")] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Write a key file with a new key, for a pool on a Redis of your own."""
    where = find_pool(redis) if announce else None
    try:
        ring = write_key_file(absolute(file, "--file"), [PoolKey.new()], replace=False)
    except FileExistsError as error:
        raise ConfigError(f"{file} is there already, and is not overwritten: name another file.") from error
    except OSError as error:
        raise ConfigError(f"The key file {file} cannot be written: {error.strerror or error}.") from error
    if where is not None:
        try:
            pool_session(
                RedisSettings(where.url), pool_name(pool), lambda opened: opened.sealing.join(ring, opens=True)
            )
        except ConfigError as error:
            if isinstance(error.__cause__, PoolKeyMismatch):  # else the pool may have it
                file.unlink(missing_ok=True)
            raise
    typer.echo(f"key {ring.ids[0]} is in {file}")
    if where is not None:
        typer.echo(f"pool {pool_name(pool)} is sealed with it")


@key.command()
def prepare(file: _File = None, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Make the next key: it opens and seals nothing, until every worker has it and you run `rotate`."""
    ring, where_from = _of_a_file(file, redis)
    where = _pool_of(where_from, redis)
    if ring.prepared:
        typer.echo(f"key {ring.prepared[-1].id} is prepared already")
    else:
        ring = _write(where_from, ring.keys, [PoolKey.new()])
        typer.echo(f"key {ring.prepared[-1].id} is prepared")
    _announce_prepared(ring, where, pool)
    typer.echo(f"{_HAND_OUT}\nThen: tokenlane key rotate")


@key.command()
def rotate(
    drop_old: Annotated[bool, typer.Option("--drop-old", help="End the change: only the newest key stays.")] = False,
    now: Annotated[
        bool,
        typer.Option("--now", help="Though workers lack the new key, or requests wait under the old: these fail."),
    ] = False,
    file: _File = None,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Have the prepared key seal from now on, or a new one; the old ones open what waits until --drop-old."""
    ring, where_from = _of_a_file(file, redis)
    where = _pool_of(where_from, redis)
    (_drop if drop_old else _switch)(ring, where_from, where, pool, now)


def _switch(ring: KeyRing, file: Path, where: RedisSettings | None, pool: str | None, now: bool) -> None:
    if not ring.prepared:
        ring = _write(file, ring.keys, [PoolKey.new()])
    _announce_prepared(ring, where, pool)
    newest = ring.prepared[-1]
    lacking = (
        pool_session(where, pool_name(pool), lambda opened: _lacking(opened, newest.id)) if where and not now else ()
    )
    if lacking:
        raise UserError(
            f"key {newest.id} is prepared, and does not seal yet: {'; '.join(lacking)}.\n{_HAND_OUT}\nThen run this "
            "again, or with --now, and those workers take no new work."
        )
    # In this order whatever is sealed can be opened, also if it stops halfway: all have the key, and agents seal only
    # with what the pool has announced.
    switched = KeyRing((*reversed(ring.prepared), *ring.keys))
    _announce(switched, where, pool)
    _write(file, switched.keys)
    typer.echo(
        f"key {newest.id} seals now; {_listed(ring.ids)} still opens, and agents elsewhere seal with it until they "
        "have the new one. When all have: tokenlane key rotate --drop-old"
    )


async def _lacking(pool: Pool, key_id: str) -> list[str]:
    """Who does not say that it has the key, for people; those that read it from the file are given time for that."""
    lease_s = (await pool.policies.read()).lease_ms / 1000
    clock = asyncio.get_running_loop().time
    until = clock() + lease_s / 2  # workers beat three times a lease
    while True:
        workers = (await take_snapshot(pool)).without_key(key_id)
        without = [worker for worker in workers if worker.keys is not None]
        if not without or clock() >= until:
            break
        await asyncio.sleep(_LOOK_AGAIN_S)
    return [f"worker {worker.name} of lane {worker.lane} {_why(worker)}" for worker in workers]


def _why(worker: WorkerStatus) -> str:
    if worker.keys is None:
        return "is of an older tokenlane, which does not say which keys it has"
    return "does not have it"


def _drop(ring: KeyRing, file: Path, where: RedisSettings | None, pool: str | None, now: bool) -> None:
    newest, *old = ring.keys
    if not old:
        hint = " The one that is prepared does not seal yet: tokenlane key rotate" if ring.prepared else ""
        raise ConfigError(f"{file} holds one key only, {newest.id}: there is none to drop.{hint}")
    ids, left = [one.id for one in old], KeyRing((newest,), file, ring.prepared)
    _announce(left, where, pool, retiring=ids)
    waiting = pool_session(where, pool_name(pool), lambda opened: opened.sealing.sealed_with(ids)) if where else 0
    if waiting and not now:
        raise UserError(
            f"{waiting} requests are sealed with the old keys, and no more such are taken. Run this again when they "
            "have ended, or with --now, and they fail."
        )
    # In this order a pool never asks for a key that is in no file.
    _announce(left, where, pool)
    _write(file, left.keys, left.prepared)
    typer.echo(f"key {newest.id} is the only one now; dropped: {_listed(ids)}")


def _of_a_file(file: Path | None, redis: str | None) -> tuple[KeyRing, Path]:
    ring = _ring(file, redis)
    if ring.file is None:
        raise ConfigError("The keys come from TOKENLANE_POOL_KEY: change them there, or name their --file.")
    return ring, ring.file


def _ring(file: Path | None, redis: str | None) -> KeyRing:
    """The keys of a file, else those the user's commands use, else those of the embedded server."""
    if file is not None:
        return read_key_file(absolute(file, "--file"))
    ring = pool_keys()
    if ring.keys:
        return ring
    try:
        ring = beside(find_pool(redis).url)
    except NoPool:
        own = _own_file()
        ring = read_key_file(own) if own.exists() else ring
    if not ring.keys:
        raise _NoKey(
            "There is no key here. `tokenlane up` makes its own; for another Redis: tokenlane key new --file PATH"
        )
    return ring


def _with_the_pool_s(error: _NoKey, redis: str | None, pool: str | None) -> ConfigError:
    """The error, with what to do if the pool has a key, as far as it says."""
    try:
        announced = pool_session(find_pool(redis), pool_name(pool), lambda opened: opened.sealing.key_ids())
    except UserError:
        return error
    if not announced:
        return error
    return ConfigError(
        f"There is no key here, and pool {pool_name(pool)} is sealed with {_listed(announced)}. Set TOKENLANE_POOL_KEY "
        "to what `tokenlane key show --reveal` prints where the key is, or write that into a file of mode 0600 which "
        "key_file names, in the section [redis] of llm.toml."
    )


def _own_file() -> Path:
    return data_dir() / "redis" / FILE_NAME


def _pool_of(file: Path, redis: str | None) -> RedisSettings | None:
    """The pool; None if it is that of `tokenlane up`, which does not run and reads the file when it starts."""
    try:
        return find_pool(redis)
    except NoPool:
        if file == _own_file():
            return None
        raise


def _write(file: Path, keys: Sequence[PoolKey], prepared: Sequence[PoolKey] = ()) -> KeyRing:
    try:
        return write_key_file(file, keys, prepared)
    except OSError as error:
        raise UserError(f"The key file {file} cannot be written: {error.strerror or error}. Run this again.") from error


def _announce(ring: KeyRing, where: RedisSettings | None, pool: str | None, retiring: Sequence[str] = ()) -> None:
    if where is not None:
        pool_session(where, pool_name(pool), lambda opened: opened.sealing.announce(ring, retiring))


def _announce_prepared(ring: KeyRing, where: RedisSettings | None, pool: str | None) -> None:
    """Say which key is prepared; the others stay as they are."""
    if where is not None:
        pool_session(where, pool_name(pool), lambda opened: opened.sealing.announce_again(ring))


def _listed(ids: Sequence[str]) -> str:
    return one_line(", ".join(ids))  # the pool's may be anybody's
