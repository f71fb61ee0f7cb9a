"""Every refusal that Redis can answer with, as it stands on the wire."""

from __future__ import annotations

import asyncio

import pytest
from redis import exceptions as redis_errors

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable, QueueFull
from tokenlane.routing.store.server import Server, Timings
from tokenlane.routing.store.server.errors import translate_error
from tokenlane.routing.store.server.refusals import REFUSALS, refusal_code

SECRET = "s3cr3t"

# What servers say, from Redis 6.2 to 8 and Valkey 9, by its name in the table.
ON_THE_WIRE = [
    ("NOAUTH", "NOAUTH Authentication required."),
    ("NOAUTH", "NOAUTH HELLO must be called with the client already authenticated, authentication required"),
    ("WRONGPASS", "WRONGPASS invalid username-password pair or user is disabled."),
    ("WRONGPASS", "ERR invalid password"),
    ("NOPERM command", "NOPERM this user has no permissions to run the 'evalsha' command or its subcommand"),
    ("NOPERM command", "NOPERM User app has no permissions to run the 'subscribe' command"),
    ("NOPERM key", "NOPERM this user has no permissions to access one of the keys used as arguments"),
    ("NOPERM key", "NOPERM No permissions to access a key"),
    ("NOPERM channel", "NOPERM this user has no permissions to access one of the channels used as arguments"),
    ("NOPERM channel", "NOPERM No permissions to access a channel"),
    ("NOPERM channel", "ERR ACL failure in script: No permissions to access a channel script: 5a, on @user_script:9."),
    (
        "NOPERM command",
        "ERR ACL failure in script: User a has no permissions to run the 'publish' command",
    ),
    ("DENIED", "DENIED Redis is running in protected mode because protected mode is enabled"),
    ("MAXCLIENTS", "ERR max number of clients reached"),
    ("MAXCLIENTS", "ERR max number of clients + cluster connections reached"),
    ("OOM", "OOM command not allowed when used memory > 'maxmemory'."),
    ("OOM", "OOM command not allowed when used memory > 'maxmemory'. script: 5a, on @user_script:9."),
    ("OOM", "ERR Error running script (call to f_5a): @user_script:9: @user_script: 9: -OOM command not allowed"),
    ("READONLY", "READONLY You can't write against a read only replica."),
    ("READONLY", "READONLY You can't write against a read only replica. script: 5a, on @user_script:9."),
    ("READONLY", "ERR Error running script (call to f_5a): @user_script:9: @user_script: 9: -READONLY You can't write"),
    ("LOADING", "LOADING Redis is loading the dataset in memory"),
    ("BUSY", "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
    ("MASTERDOWN", "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
    ("CLUSTERDOWN", "CLUSTERDOWN The cluster is down"),
    ("CLUSTERDOWN", "CLUSTERDOWN Hash slot not served"),
    ("MOVED", "MOVED 14943 10.0.0.2:7001"),
    ("ASK", "ASK 14943 10.0.0.2:7001"),
    ("TRYAGAIN", "TRYAGAIN Multiple keys request during rehashing of slot"),
    ("CROSSSLOT", "CROSSSLOT Keys in request don't hash to the same slot"),
    ("MISCONF", "MISCONF Errors writing to the AOF file: No space left on device"),
    ("MISCONF", "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk."),
    ("NOREPLICAS", "NOREPLICAS Not enough good replicas to write."),
    ("EXECABORT", "EXECABORT Transaction discarded because of previous errors."),
    ("UNKNOWN", f"ERR unknown command 'EVALSHA', with args beginning with: '{SECRET}' '1' "),
    ("UNKNOWN", f"ERR unknown command `EVALSHA`, with args beginning with: `{SECRET}`, `1`, "),
    ("SELECT", "ERR DB index is out of range"),
    ("SELECT", "ERR SELECT is not allowed in cluster mode"),
]


async def answered(line: str) -> tuple[LlmError, Exception]:
    """The error of asking a server that says this line to everything, and what it was made of."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while asked := await reader.read(65536):
            writer.write(f"-{line}\r\n".encode() * asked.count(b"*"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"redis://user:{SECRET}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    without_user = url.replace(f"user:{SECRET}@", "")
    try:
        async with Server.of(without_user).commands(retries=0) as commands:
            commands.server = Server.of(url, Timings(command_s=2.0))  # as messages name it
            with pytest.raises(LlmError) as raised:
                await commands.ask("PING")
    finally:
        server.close()
        for writer in writers:
            writer.close()
    cause = raised.value.__cause__
    assert isinstance(cause, Exception)
    return raised.value, cause


@pytest.mark.parametrize(("name", "line"), ON_THE_WIRE)
async def test_each_refusal_has_words_and_a_pause_of_its_own(
    name: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told apart from all others and from a server that is not there, and says when to ask again."""
    ours, cause = await answered(line)
    refusal = REFUSALS[name]
    assert refusal_code(cause) == name
    assert type(ours) is refusal.error
    assert (ours.retryable, ours.retry_after_s) == (refusal.pause_s is not None, refusal.pause_s)
    assert refusal.text.split("{")[0] in str(ours)
    assert SECRET not in str(ours) + repr(ours)


def test_the_table_of_refusals_is_complete() -> None:
    """Each refusal is on the wire above, no two have the same words, and only full memory is told as a full queue."""
    assert {name for name, _ in ON_THE_WIRE} == set(REFUSALS)
    assert len({refusal.text for name, refusal in REFUSALS.items() if name != "TRYAGAIN"}) == len(REFUSALS) - 1
    assert [name for name, refusal in REFUSALS.items() if refusal.error is QueueFull] == ["OOM"]


def test_errors_name_the_node_and_the_command() -> None:
    """The node that holds the pool, and the command that is not allowed."""
    moved = translate_error(redis_errors.ResponseError("MOVED 14943 10.0.0.2:7001"), "redis://host")
    denied = translate_error(
        redis_errors.NoPermissionError("User a has no permissions to run the 'evalsha' command"), "redis://h"
    )
    assert "10.0.0.2:7001" in str(moved)
    assert "evalsha" in str(denied)


@pytest.mark.parametrize("text", ["invalid password", "Authentication required."])
def test_a_password_without_its_colon(text: str) -> None:
    """The error does not show the password, and names the form of URL that takes it; other URLs get no such advice."""
    error, form = redis_errors.AuthenticationError(text), "redis://:PASSWORD@HOST?"
    missing = str(translate_error(error, f"redis://{SECRET}@host:6379"))
    assert SECRET not in missing
    assert form in missing
    assert form not in str(translate_error(error, f"redis://user:{SECRET}@host:6379"))


def test_lost_connections_are_no_refusals() -> None:
    """Lost connections have no code, whatever their text."""
    for error in (redis_errors.ConnectionError("OOM x"), redis_errors.TimeoutError("LOADING"), OSError("READONLY")):
        assert refusal_code(error) == ""
        assert type(translate_error(error, "redis://host")) is PoolUnavailable
