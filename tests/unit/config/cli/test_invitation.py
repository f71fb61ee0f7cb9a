"""What is pasted on another host."""

from __future__ import annotations

import pytest

from tokenlane.config.cli.invitation import AGENT, WORKER, Invitation
from tokenlane.config.host.pool_key_files import KeyRing, PoolKey


@pytest.mark.parametrize("pool", ["main", "other"])
def test_the_exports_name_the_pool_unless_it_is_main(pool: str) -> None:
    """They carry URL, keys in order and, if it is another, the pool."""
    keys = KeyRing((PoolKey.new(), PoolKey.new()))
    invitation = Invitation("redis://:p@host:1/0", pool, keys)
    assert keys.reveal() in invitation.exports
    assert ("TOKENLANE_POOL=other" in invitation.exports) is (pool == "other")
    assert invitation.exports in invitation.text()
    assert keys.reveal() not in repr(invitation)


def test_without_keys_no_variable_is_empty() -> None:
    """An empty one would be refused."""
    assert "POOL_KEY" not in Invitation("redis://host:1", "main", KeyRing()).exports


@pytest.mark.parametrize(
    ("host", "others"),
    [("127.0.0.1", False), ("[::1]", False), ("localhost", False), ("192.0.2.7", True), ("gpu-hub", True)],
)
def test_agent_and_worker_are_invited_everywhere(host: str, others: bool) -> None:
    """For a pool at a loopback address a comment, which a shell ignores, tells how another host gets in."""
    text = Invitation(f"redis://:p@{host}:6390/0", "main", KeyRing()).text()
    lines = text.splitlines()
    assert (AGENT in lines, WORKER in lines) == (True, True)
    comments = [line for line in lines if line.startswith("#")]
    assert (not comments) is others
    assert all("tokenlane up --listen" in comment and "6390" in comment for comment in comments)
    assert "secret" in lines[0]
    assert ":p@" not in lines[0]


def test_the_lines_for_a_worker_can_be_pasted() -> None:
    """They look for model servers, check the lane and start the worker, without anything to fill in."""
    lines = Invitation("redis://:p@gpu-hub:6390/0", "main", KeyRing()).text().splitlines()
    end = lines.index(WORKER)
    export, *commands = lines[end - 3 : end + 1]
    assert export.startswith("export TOKENLANE_REDIS_URL=")
    assert commands == ["tokenlane probe", WORKER.replace("worker", "worker --check", 1), WORKER]
    explanation = " ".join(lines[end + 1 :])
    assert all(name in explanation for name in ("ollama", "vllm", "lmstudio", "tgi", "llamacpp", "openai"))


@pytest.mark.parametrize(("hosts", "others"), [("gpu-hub:1,[2001:db8::1]:2", True), ("gpu-hub,127.0.0.1:2", False)])
def test_sentinels_are_named_by_addresses_of_this_host_or_not(hosts: str, others: bool) -> None:
    """A loopback address among those of Sentinels is of no use elsewhere, and no tunnel helps."""
    invitation = Invitation(f"redis+sentinel://:p@{hosts}/main", "main", KeyRing())
    comments = [line for line in invitation.text().splitlines() if line.startswith("#")]
    assert (not comments) is others
    assert all("Sentinel" in comment and "SSH" not in comment for comment in comments)
