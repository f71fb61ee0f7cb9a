"""Conversations in a file of the agent's, which several processes may use."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tokenlane.producer import Client, Conversation, ConversationBusy, TokenDelta, ToolCallDelta
from tokenlane.producer.conversation.file import ConversationFile
from tokenlane.producer.conversation.saved import SavedConversation
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.requests import ChatRequest


def answer(request: ChatRequest) -> Iterator[str | TokenDelta]:
    """Call a tool if asked for one, else name the number of messages."""
    if request.messages[-1].content == "call":
        yield TokenDelta(tool_calls=(ToolCallDelta(index=0, id="c", name="f", arguments="{}"),))
    else:
        yield f"answer {len(request.messages)}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.sqlite"


def opened(client: Client, path: Path, id: str = "c", **options: str) -> Conversation:
    """The conversation as one process has it; another call is another process."""
    return client.conversation(role="r", id=id, file=path, **options)  # type: ignore[arg-type]  # as the options are


async def test_a_conversation_goes_on_elsewhere(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From the file, which only its owner may read, with what is no longer sent; no log has a text of it."""
    caplog.set_level(logging.DEBUG)
    async with MockPool(answer) as pool, pool.client() as client:
        first = client.conversation(role="r", id="c", file=path, system="s", max_input_tokens=60)
        for number in "1234":
            await first.complete(number + "secret" * 12)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        second = client.conversation(role="r", id="c", file=str(path), system="another")
        assert [message.content for message in second.messages] == ["another"]
        await second.refresh()
        assert (second.messages, second.left_out) == (first.messages, first.left_out)
        assert second.left_out > 0
        await second.complete("5")
        await first.complete("6")
        assert [message.content for message in first.messages][-4::2] == ["5", "6"]
        other = opened(client, path, "other")
        await other.refresh()
        assert other.messages == []
    assert "secret" not in caplog.text


async def test_two_processes_ask_at_once(path: Path) -> None:
    """The answer that ends first is written. The other one is delivered and not added; then all goes on."""
    async with MockPool(answer) as pool, pool.client() as client:
        first, second = opened(client, path), opened(client, path)
        await first.complete("0")
        async with first.ask("1") as slow, second.ask("2") as fast:
            assert (await fast.answer()).text == "answer 3"
            assert (await anext(slow)).text == "answer 3"
            with pytest.raises(ConversationBusy):
                await slow.answer()
        assert len(second.messages) == 4
        assert first.messages == second.messages[:2]
        assert (await first.complete("1")).text == "answer 5"
        await second.refresh()
        assert second.messages == first.messages


async def test_a_refresh_while_a_question_is_answered(path: Path) -> None:
    """The answer does not follow what the question did not know."""
    async with MockPool(answer) as pool, pool.client() as client:
        first, second = opened(client, path), opened(client, path)
        async with first.ask("1") as stream:
            await second.complete("2")
            await first.refresh()
            with pytest.raises(ConversationBusy):
                await stream.answer()
        assert first.messages == second.messages


async def test_results_that_are_not_written_yet(path: Path) -> None:
    """They are written with the next answer. If another process answers first, they are lost, and the error says so."""
    async with MockPool(answer) as pool, pool.client() as client:
        first = opened(client, path)
        await first.complete("call")
        first.add_tool_result("c", "r")
        second = opened(client, path)
        await second.refresh()
        assert second.open_calls == ["c"]
        second.add_tool_result("c", "r2")
        await second.complete()
        with pytest.raises(ConversationBusy):
            await first.refresh()
        assert first.messages == second.messages
        await first.complete("3")


async def test_a_result_that_comes_during_a_refresh(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not lost silently if another process has answered meanwhile."""
    async with MockPool(answer) as pool, pool.client() as client:
        first, second = opened(client, path), opened(client, path)
        await first.complete("call")
        await second.refresh()
        second.add_tool_result("c", "r2")
        await second.complete()
        read = ConversationFile.read_if_changed

        async def slow_read(file: ConversationFile) -> SavedConversation | None:
            saved = await read(file)
            first.add_tool_result("c", "r")
            return saved

        monkeypatch.setattr(ConversationFile, "read_if_changed", slow_read)
        with pytest.raises(ConversationBusy):
            await first.refresh()


async def test_forks_and_replacements_are_in_the_file(path: Path) -> None:
    """A fork takes no id that is in use."""
    async with MockPool(answer) as pool, pool.client() as client:
        first = opened(client, path)
        await first.complete("1")
        await (await first.fork("d")).complete("2")
        with pytest.raises(ValueError, match="'d'"):
            await first.fork("d")
        saved = opened(client, path, "d")
        await saved.refresh()
        assert [message.content for message in saved.messages] == ["1", "answer 1", "2", "answer 3"]
        await first.load(saved.save())
        await saved.clear()
        for conversation, count in ((opened(client, path), 4), (opened(client, path, "d"), 0)):
            await conversation.refresh()
            assert len(conversation.messages) == count


def spoilt(path: Path, damage: str) -> None:
    if damage == "not a database":
        path.write_text("secret " * 1000)
        return
    with closing(sqlite3.connect(path)) as file:
        if damage == "newer":
            file.execute("PRAGMA user_version = 2")
        elif damage in ("'secret'", "-5", "9"):
            file.execute(f"UPDATE conversations SET left_out = {damage}")
        elif damage == "order":
            file.execute("DELETE FROM messages WHERE place = 0")
        else:
            file.execute('UPDATE messages SET message = \'{"role": "secret"}\'')
        file.commit()


@pytest.mark.parametrize(
    "damage", ["not a database", "newer", "a message", "no folder", "'secret'", "-5", "9", "order"]
)
async def test_a_file_that_cannot_be_used(path: Path, damage: str) -> None:
    """The error names the file and quotes nothing of it. No question is sent, and the next one is not kept waiting."""
    async with MockPool(answer) as pool, pool.client() as client:
        await opened(client, path).complete("1")
        if damage == "no folder":
            path = path.parent / "none" / "file"
        else:
            spoilt(path, damage)
        conversation = opened(client, path)
        for _ in range(2):
            with pytest.raises(OSError, match=path.name) as refused:
                await conversation.complete("2")
            assert "secret" not in str(refused.value)
    assert len(pool.requests) == 1


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_gone(path: Path, replaced: bool) -> None:
    """No question is sent without what was said before it, and the conversation in memory stays."""
    async with MockPool(answer) as pool, pool.client() as client:
        conversation = opened(client, path)
        await conversation.complete("1")
        path.unlink()
        if replaced:
            await opened(client, path, "other").complete("2")
        for _ in range(2):
            with pytest.raises(OSError, match=path.name):
                await conversation.complete("3")
        assert len(conversation.messages) == 2
        await opened(client, path, "copy").load(conversation.save())
    assert len(pool.requests) == 1 + replaced


async def test_a_file_of_a_strange_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite would keep the conversation in memory, and forget it after each question."""
    monkeypatch.chdir(path.parent)
    async with MockPool(answer) as pool, pool.client() as client:
        conversation = opened(client, Path(":memory:"))
        await conversation.complete("1")
        assert (await conversation.complete("2")).text == "answer 3"


async def test_without_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations in memory need nothing; those in a file say what to install."""
    monkeypatch.setitem(sys.modules, "aiosqlite", None)
    monkeypatch.delitem(sys.modules, "tokenlane.producer.conversation.file", raising=False)
    async with MockPool(answer) as pool, pool.client() as client:
        await client.conversation(role="r").complete("1")
        with pytest.raises(RuntimeError, match="`conversations`"):
            opened(client, path)


async def test_a_file_of_many_conversations(path: Path) -> None:
    """They are written at the same time, and keep no thread or file open."""
    async with MockPool(answer) as pool, pool.client() as client:
        conversations = [opened(client, path, f"c{number}") for number in range(20)]
        await asyncio.gather(*(conversation.complete("1") for conversation in conversations))
        for conversation in conversations:
            await conversation.refresh()
            assert len(conversation.messages) == 2
