"""`tokenlane key`: shows, creates and rotates the keys that seal a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from tokenlane.config.cli.output import show_json
from tokenlane.config.cli.plain_text import one_line
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import counted
from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.host.paths import absolute
from tokenlane.config.host.pool_key_files import FILE_NAME, KeyRing, PoolKey, read_key_file, socket_keys, write_key_file
from tokenlane.config.host.up_registry import data_dir
from tokenlane.config.settings.load import NoPool, find_pool, pool_keys, pool_name
from tokenlane.routing.commands.pool_session import pool_session
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

_CHECK_EVERY_S = 0.2
_HAND_OUT = (
    "Workers that read the key file pick it up with their next heartbeat. For all others, set TOKENLANE_POOL_KEY to "
    "the output of `tokenlane key show --reveal` and restart them, workers first. `tokenlane status --check` lists "
    "workers without the key."
)
_NO_KEY = "This host has no pool key. `tokenlane up` creates one for its pool; for another server: `tokenlane key new`."
_GET_KEY = (
    "Run `tokenlane key show --reveal` on a host that has the key, and set TOKENLANE_POOL_KEY to its output here; or "
    "save the output in a file of mode 0600, and name that file as key_file in the section [redis] of llm.toml."
)

key = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_File = Annotated[
    Path | None,
    typer.Option(help="The key file. Default: the file in use, or else the file that `tokenlane up` wrote."),
]


@key.command()
def show(
    reveal: Annotated[bool, typer.Option(help="Print the keys themselves, to paste elsewhere.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    file: _File = None,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Print the ids of this host's keys, and of the keys that seal the pool's requests."""
    ring = _ring(file, redis)
    if ring.keys and reveal and not as_json:
        typer.echo(ring.reveal())
        return
    sealed_with: Sequence[str] | None = None
    unavailable = None
    try:
        sealed_with = pool_session(redis, pool, lambda opened: opened.key_agreement.key_ids())
    except ConfigError as error:
        unavailable = str(error)
    if not ring.keys:
        hint = f" Pool {pool_name(pool)} is sealed with {_listed(sealed_with)}. {_GET_KEY}" if sealed_with else ""
        raise ConfigError(_NO_KEY + hint)
    prepared = [key.id for key in ring.prepared]
    source = str(ring.file or "TOKENLANE_POOL_KEY")
    if as_json:
        of_host = {"ids": ring.ids, "prepared": prepared, "source": source}
        of_pool = {"pool": pool_name(pool), "sealed_with": sealed_with, "not_asked": unavailable}
        show_json({**of_host, **of_pool, **({"keys": ring.reveal()} if reveal else {})})
        return
    sealed = _sealed(sealed_with) if sealed_with else "not sealed"
    typer.echo(f"host  {_listed(ring.ids)}, from {source}{'; prepared: ' if prepared else ''}{_listed(prepared)}")
    typer.echo(f"pool  {f'unknown: {unavailable}' if unavailable else f'{pool_name(pool)} is {sealed}'}")


def _sealed(key_ids: Sequence[str]) -> str:
    newest, *older = key_ids
    opens = f"; {_listed(older)} still {'opens' if len(older) == 1 else 'open'} requests" if older else ""
    return f"sealed with {newest}{opens}"


@key.command()
def new(
    file: Annotated[Path, typer.Option(help="The file to write. An existing file is never overwritten.")],
    announce: Annotated[
        bool, typer.Option(help="Also seal the pool with the new key. The pool must be unused.")
    ] = False,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Write a key file with a new key, for a pool on your own Redis server."""
    if announce:
        find_pool(redis)  # no file is written if no pool is found
    try:
        ring = write_key_file(absolute(file, "--file"), [PoolKey.new()], replace=False)
    except FileExistsError as error:
        raise ConfigError(f"{file} already exists and is not overwritten: name another file.") from error
    except OSError as error:
        raise ConfigError(
            f"The key file {file} cannot be written: {error.strerror or error}. Name another file."
        ) from error
    if announce:
        try:
            pool_session(redis, pool, lambda opened: opened.key_agreement.join(ring, unseals=True))
        except ConfigError as error:
            if isinstance(error.__cause__, PoolKeyMismatch):  # after any other error the pool may have the key
                file.unlink(missing_ok=True)
            raise
    typer.echo(f"wrote key {ring.ids[0]} to {file}")
    if announce:
        typer.echo(f"pool {pool_name(pool)} is sealed with it")


@key.command()
def prepare(file: _File = None, redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Create the next key. It seals nothing until every worker has it and you run `rotate`."""
    _change(_prepare, file, redis, pool)


@key.command()
def rotate(
    drop_old: Annotated[bool, typer.Option("--drop-old", help="Finish a rotation: keep only the newest key.")] = False,
    now: Annotated[
        bool,
        typer.Option(
            "--now",
            help="Do not wait until all workers have the new key, or until requests with an old key end; these fail.",
        ),
    ] = False,
    file: _File = None,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Seal with the prepared key, or a new one, from now on. Old keys still open requests until --drop-old."""
    step = _drop if drop_old else _switch
    _change(lambda opened, ring, path: step(opened, ring, path, now), file, redis, pool)


def _change(
    step: Callable[[Pool | None, KeyRing, Path], Awaitable[str]],
    file: Path | None,
    redis: str | None,
    pool: str | None,
) -> None:
    """Change a key file and its pool, and print the result. The pool of a stopped `tokenlane up` is not opened: `up`
    reads the file when it starts."""
    ring = _ring(file, redis)
    path = ring.file
    if not ring.keys:
        raise ConfigError(_NO_KEY)
    if path is None:
        raise ConfigError("The keys come from TOKENLANE_POOL_KEY: change them there, or name their file with --file.")
    try:
        find_pool(redis)
    except NoPool:
        if path != _file_of_up():
            raise

        async def without_pool() -> str:
            return await step(None, ring, path)

        typer.echo(asyncio.run(without_pool()))
    else:
        typer.echo(pool_session(redis, pool, lambda opened: step(opened, ring, path)))


async def _prepare(pool: Pool | None, ring: KeyRing, file: Path) -> str:
    result = f"key {ring.prepared[-1].id} was prepared before" if ring.prepared else ""
    if not ring.prepared:
        ring = _write(file, ring.keys, [PoolKey.new()])
        result = f"prepared key {ring.prepared[-1].id}"
    if pool is not None:
        await pool.key_agreement.announce_again(ring)
    return f"{result}\n{_HAND_OUT}\nThen run: tokenlane key rotate"


async def _switch(pool: Pool | None, ring: KeyRing, file: Path, now: bool) -> str:
    if not ring.prepared:
        ring = _write(file, ring.keys, [PoolKey.new()])
    newest = ring.prepared[-1]
    # Every request can be opened even if this stops halfway: the key is in the file, and agents seal only with keys
    # that the pool has announced.
    switched = KeyRing((*reversed(ring.prepared), *ring.keys))
    if pool is not None:
        await pool.key_agreement.announce_again(ring)
        without = [] if now else await _workers_without(pool, newest.id)
        if without:
            raise UserError(
                f"Key {newest.id} is prepared and does not seal yet: {'; '.join(without)}.\n{_HAND_OUT}\nThen run this "
                "command again. With --now it does not wait, and workers without the key accept no new work."
            )
        await pool.key_agreement.announce(switched)
    _write(file, switched.keys)
    old = f"{_listed(ring.ids)} still {'opens' if len(ring.ids) == 1 else 'open'} requests"
    return (
        f"key {newest.id} seals from now on. {old}, and agents on other hosts seal with the old key until they have "
        "the new one. When all have it, run: tokenlane key rotate --drop-old"
    )


async def _drop(pool: Pool | None, ring: KeyRing, file: Path, now: bool) -> str:
    newest, *old = ring.keys
    if not old:
        hint = " The prepared key does not seal yet: run `tokenlane key rotate`." if ring.prepared else ""
        raise ConfigError(f"{file} holds only key {newest.id}, so there is no old key to drop.{hint}")
    ids, left = [key.id for key in old], KeyRing((newest,), file, ring.prepared)
    if pool is not None:
        await pool.key_agreement.announce(left, ids)
        waiting = await pool.key_agreement.sealed_with(ids)
        if waiting and not now:
            raise UserError(
                f"{counted(waiting, 'request is', 'requests are')} still sealed with the old keys; new ones are "
                "refused. Run this command again when they have ended. With --now it does not wait, and they fail."
            )
        # Before the file, so that the pool never asks for a key that is in no file.
        await pool.key_agreement.announce(left)
    _write(file, left.keys, left.prepared)
    return f"key {newest.id} is the only key now; dropped {_listed(ids)}"


async def _workers_without(pool: Pool, key_id: str) -> list[str]:
    """Name the workers that do not report the key. Workers that read it from the key file get time for a heartbeat."""
    lease_s = (await pool.policies.read()).lease_ms / 1000
    clock = asyncio.get_running_loop().time
    until = clock() + lease_s / 2  # workers send three heartbeats per lease
    while True:
        workers = (await take_snapshot(pool)).without_key(key_id)
        if all(worker.keys is None for worker in workers) or clock() >= until:
            break
        await asyncio.sleep(_CHECK_EVERY_S)
    reasons = {True: "runs an older tokenlane, which does not report its keys", False: "does not have it"}
    return [f"worker {worker.name} of lane {worker.lane} {reasons[worker.keys is None]}" for worker in workers]


def _ring(file: Path | None, redis: str | None) -> KeyRing:
    """The keys in the given file; without a file, the configured keys, or else the embedded server's."""
    if file is not None:
        return read_key_file(absolute(file, "--file"))
    ring = pool_keys()
    if ring.keys:
        return ring
    try:
        ring = socket_keys(find_pool(redis).url)
    except NoPool:
        ring = read_key_file(_file_of_up()) if _file_of_up().exists() else ring
    return ring


def _file_of_up() -> Path:
    return data_dir() / "redis" / FILE_NAME


def _write(file: Path, keys: Sequence[PoolKey], prepared: Sequence[PoolKey] = ()) -> KeyRing:
    try:
        return write_key_file(file, keys, prepared)
    except OSError as error:
        raise UserError(
            f"The key file {file} cannot be written: {error.strerror or error}. Run this command again."
        ) from error


def _listed(ids: Sequence[str]) -> str:
    return one_line(", ".join(ids))  # ids from the pool may hold any characters
