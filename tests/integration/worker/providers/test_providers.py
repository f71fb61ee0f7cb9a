"""Providers against a simulated model server that can fail in every way, in each dialect it speaks."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.fake_server import Reply, driven
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    Interrupted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RateLimited,
    Timeout,
    Unauthorized,
    UnreadableAnswer,
)
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.recovery import AttemptFailed, History, TryAgain, decide
from tokenlane.worker.providers import LlmProvider, default_registry

SECRET = SecretStr("sk-123")


@pytest.fixture(params=["openai", "ollama"])
def api(request: pytest.FixtureRequest) -> str:
    """The dialect, which is the provider's name too."""
    name: str = request.param
    return name


@pytest.fixture
async def simulator(api: str) -> AsyncIterator[Simulator]:
    """A simulated model server with one slot and short answers."""
    async with Simulator(api=api, tokens=4, capacity=1) as running:
        yield running


@pytest.fixture
async def provider(simulator: Simulator, api: str) -> AsyncIterator[LlmProvider]:
    """The provider of a lane on the simulated model server."""
    async with default_registry().create(lane(simulator.url, api)) as opened:
        yield opened


def lane(
    endpoint: str, provider: str = "openai", token_timeout_s: float = 10, first_token_timeout_s: float = 10
) -> LaneSettings:
    return LaneSettings(
        "gpu0",
        provider,
        endpoint,
        api_key=SECRET,
        token_timeout_s=token_timeout_s,
        first_token_timeout_s=first_token_timeout_s,
    )


def request(text: str = "q", script: FaultScript | None = None) -> ChatRequest:
    extra = None if script is None else {"simulate": script.model_dump(mode="json", exclude_unset=True)}
    return ChatRequest(role="r", messages=[Message(role="user", content=text)], extra=extra)


async def answer(provider: LlmProvider, script: FaultScript | None = None) -> list[TokenDelta]:
    return [delta async for delta in provider.chat(request(script=script), "sim")]


async def failure(provider: LlmProvider, script: FaultScript) -> tuple[str, LlmError]:
    """The text that came before the error, and the error."""
    pieces: list[str] = []

    async def read() -> None:
        async for delta in provider.chat(request(script=script), "sim"):
            pieces.append(delta.text)

    with pytest.raises(LlmError) as raised:
        await read()
    return "".join(pieces), raised.value


async def test_an_answer(provider: LlmProvider, simulator: Simulator) -> None:
    """The pieces come one by one, the last with finish reason and usage, and the key went along."""
    deltas = await answer(provider)
    assert [delta.text for delta in deltas] == ["w0 ", "w1 ", "w2 ", "w3 ", ""]
    assert {delta.model for delta in deltas} == {"sim"}
    assert [delta.finish_reason for delta in deltas] == [None] * 4 + ["stop"]
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 4
    assert simulator.log[0].headers["Authorization"] == "Bearer sk-123"


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_the_endpoint_may_end_in_v1(simulator: Simulator, path: str, api: str) -> None:
    """An endpoint works as base address and as the `/v1` that other clients are given."""
    async with default_registry().create(lane(simulator.url + path, api)) as provider:
        assert len(await answer(provider)) == 5


async def test_models_and_capacity() -> None:
    """Models come from the list, llama.cpp's capacity from its slots."""
    async with Simulator(capacity=1) as simulator:
        async with default_registry().create(lane(simulator.url, "llamacpp")) as provider:
            assert [(info.name, info.provider, info.lane) for info in await provider.models()] == [
                ("sim", "llamacpp", "gpu0")
            ]
            assert await provider.capacity() == 1
        async with default_registry().create(lane(simulator.url)) as provider:
            assert await provider.capacity() == 4


async def test_ollamas_models() -> None:
    """Ollama's models come with what each can do; those for embeddings do not chat, and one request runs at once."""
    names = ("phi3:latest", "embed-mini:latest")
    async with Simulator(api="ollama", capacity=3, models=names, loaded=names[:1]) as simulator:
        async with default_registry().create(lane(simulator.url, "ollama")) as provider:
            chat, embed = await provider.models()
            assert (chat.name, chat.chats, chat.loaded, chat.quantisation) == ("phi3:latest", True, True, "Q4_K_M")
            assert (embed.name, embed.chats, embed.loaded, embed.capabilities) == (
                "embed-mini:latest",
                False,
                False,
                ("embed",),
            )
            assert (chat.digest or "").startswith("sha256:")
            assert await provider.capacity() == 1


async def test_a_redirect_takes_the_key_nowhere(provider: LlmProvider) -> None:
    """A model server that redirects is an error: the host it names gets no request, so no credentials either."""
    async with Simulator() as other:
        moved = FaultScript(status=307, location=f"{other.url}/v1/chat/completions")
        _, raised = await failure(provider, moved)
        assert type(raised) is ProviderDown
        assert "redirect" in raised.message
        assert len(other.log) == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text(max_size=200),
        st.text(alphabet='"\\\n\r\t\0\u2028\u2029\x7f{}[]<|>\U0001f600\u4e2d\ufeff\ufffd\u0301', max_size=40),
    ).filter(lambda text: not text.lstrip().startswith("<think>"))  # which would be reasoning
)
def test_what_is_sent_is_received(text: str) -> None:
    """Whatever a message, a stop word or a tool holds, the model server gets it as one JSON value, byte for byte."""

    async def send() -> tuple[bytes, list[TokenDelta]]:
        async with Simulator(models=("sim",)) as simulator, default_registry().create(lane(simulator.url)) as provider:
            chat = ChatRequest(
                role="r",
                messages=[
                    Message(role="system", content=text),
                    Message(role="user", content=[{"type": "text", "text": text}]),
                ],
                stop=f"{text}|",
                extra={"simulate": {"pieces": [text]}, "more": {text: text}},
            )
            deltas = [delta async for delta in provider.chat(chat, "sim")]
            return simulator.log[0].body, deltas

    body, deltas = asyncio.run(send())
    received = json.loads(body)
    assert received["messages"][0]["content"].encode() == text.encode()
    assert received["messages"][1]["content"][0]["text"].encode() == text.encode()
    assert received["stop"] == f"{text}|"
    assert received["more"] == {text: text}
    assert "".join(delta.text for delta in deltas) == text


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_utf8_is_cut_anywhere(provider: LlmProvider, size: int) -> None:
    """Characters split over chunks come out whole."""
    pieces = ("é", "中文", "😀", "a\u2028b")
    deltas = await answer(provider, FaultScript(pieces=pieces, split_bytes=size))
    assert tuple(delta.text for delta in deltas[:-1]) == pieces


@pytest.mark.parametrize(
    ("script", "error", "again", "before"),
    [
        (FaultScript(status=400), BadRequest, False, ""),
        (FaultScript(status=400, error={"type": "exceed_context_size_error"}), ContextTooLong, False, ""),
        (FaultScript(status=401), Unauthorized, False, ""),
        (FaultScript(status=404), ModelNotFound, False, ""),
        (FaultScript(status=429, retry_after="7"), RateLimited, True, ""),
        (FaultScript(status=500), ProviderDown, True, ""),
        (FaultScript(status=302, location="http://127.0.0.1:1/"), ProviderDown, False, ""),
        (FaultScript(status=200), ProviderDown, True, ""),
        (FaultScript(drop=True), ProviderDown, True, ""),
        (FaultScript(error_after=0), ProviderDown, True, ""),
        (FaultScript(error_after=2), ProviderDown, False, "w0 w1 "),
        (FaultScript(error_after=2, error="text"), ProviderDown, False, "w0 w1 "),
        (FaultScript(cut_after=0), ProviderDown, True, ""),
        (FaultScript(cut_after=2), ProviderDown, False, "w0 w1 "),
        (FaultScript(malformed_after=1), UnreadableAnswer, False, "w0 "),
        (FaultScript(huge_line_after=1), UnreadableAnswer, False, "w0 "),
        (FaultScript(answers_as="other"), ModelNotFound, False, ""),
        (FaultScript(finish_reason=None), Interrupted, False, "w0 w1 w2 w3 "),
        (FaultScript(finish_reason=None, done=False), Interrupted, False, "w0 w1 w2 w3 "),
        (FaultScript(finish_reason=None, tokens=0), Interrupted, True, ""),
        (FaultScript(finish_reason="abort"), Interrupted, False, "w0 w1 w2 w3 "),
        (FaultScript(content_type="text/html"), UnreadableAnswer, False, ""),
    ],
)
async def test_each_fault_is_its_error(
    provider: LlmProvider,
    simulator: Simulator,
    api: str,
    script: FaultScript,
    error: type[LlmError],
    again: bool,
    before: str,
) -> None:
    """Each way to fail is one typed error that says where, and by which the request is tried again or ended; the
    connection is fit for the next request."""
    text, raised = await failure(provider, script)
    assert type(raised) is error
    assert (raised.provider, raised.lane, raised.model) == (api, "gpu0", "sim")
    decision = decide(AttemptFailed(raised), History(delivered=int(bool(before))), Policy())
    assert isinstance(decision, TryAgain) is again
    assert text == before
    assert "simulated" not in f"{raised!r}{raised}"
    if script.retry_after:
        assert raised.retry_after_s == 7
    assert len(await answer(provider)) == 5
    assert simulator.running == 0


async def test_the_answer_is_whole_without_usage_or_done(provider: LlmProvider) -> None:
    """The finish mark alone decides; usage and `[DONE]` may be missing."""
    deltas = await answer(provider, FaultScript(usage=False, done=False))
    assert deltas[-1].finish_reason == "stop"
    assert deltas[-1].usage is None


async def test_no_first_token_in_time(simulator: Simulator, api: str) -> None:
    """A model server that accepts and then says nothing is a time-out of the first token."""
    async with default_registry().create(lane(simulator.url, api, first_token_timeout_s=0.3)) as provider:
        text, raised = await failure(provider, FaultScript(hold_after=0))
    assert type(raised) is Timeout
    assert "first token within 0.3 s" in raised.message
    assert text == ""
    await simulator.ended()
    assert simulator.log[0].ended == "disconnected"


async def test_no_next_token_in_time(simulator: Simulator, api: str) -> None:
    """A model server that stops in the middle is a time-out of the next token."""
    async with default_registry().create(lane(simulator.url, api, token_timeout_s=0.05)) as provider:
        text, raised = await failure(provider, FaultScript(hold_after=2))
    assert type(raised) is Timeout
    assert "next token within 0.05 s" in raised.message
    assert text == "w0 w1 "


async def test_pings_are_no_tokens(simulator: Simulator, api: str) -> None:
    """A server that keeps the connection open while its engine hangs does not stop the clock."""
    async with default_registry().create(lane(simulator.url, api, token_timeout_s=0.2)) as provider:
        text, raised = await failure(provider, FaultScript(hold_after=1, ping_ms=10))
    assert type(raised) is Timeout
    assert text == "w0 "


async def test_an_answer_may_not_take_for_ever(simulator: Simulator, api: str) -> None:
    """Tokens that keep coming do not stop the clock of the whole answer."""
    endless = replace(lane(simulator.url, api), total_timeout_s=0.2)
    async with default_registry().create(endless) as provider:
        text, raised = await failure(provider, FaultScript(tokens=100_000, itl_ms=5))
    assert type(raised) is Timeout
    assert "after 0.2 s" in raised.message
    assert text.startswith("w0 w1 ")


async def test_an_answer_in_one_page_is_no_stream(provider: LlmProvider) -> None:
    """HTTP 200 with an error in the body is an error, and what it says is the detail."""
    _, raised = await failure(provider, FaultScript(status=200, error={"message": "boom"}))
    assert type(raised) is ProviderDown
    assert "boom" in raised.detail
    assert "boom" not in str(raised)


async def test_nobody_listens() -> None:
    """A refused connection is tried again for a moment, then the model server is down."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with default_registry().create(lane(f"http://127.0.0.1:{unused.getsockname()[1]}")) as provider:
            _, raised = await failure(provider, FaultScript())
            assert type(raised) is ProviderDown
            assert raised.server_condition == "down"
            with pytest.raises(ProviderDown) as unreached:
                await provider.models()
            assert unreached.value.server_condition == "down"


async def test_a_model_server_that_comes_up_is_waited_for() -> None:
    """A connection that is refused at first and then accepted is no error."""
    port = free_port()
    async with default_registry().create(lane(f"http://127.0.0.1:{port}")) as provider:
        asking = asyncio.create_task(answer(provider))
        await asyncio.sleep(0.1)  # the first tries are refused
        async with Simulator(port=port, tokens=1):
            assert len(await asking) == 2


@pytest.mark.parametrize("after", [0, 2])
async def test_closing_frees_the_slot(provider: LlmProvider, simulator: Simulator, after: int) -> None:
    """Cancelling whoever reads closes the connection, and the model server's only slot serves the next request."""
    reading = asyncio.create_task(answer(provider, FaultScript(hold_after=after)))
    await simulator.held()
    assert simulator.running == 1
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await simulator.ended()
    assert (simulator.log[0].ended, simulator.log[0].sent) == ("disconnected", after)
    assert len(await answer(provider)) == 5


async def test_closing_the_generator_frees_the_slot(provider: LlmProvider, simulator: Simulator) -> None:
    """So does closing the generator after a delta."""
    stream = provider.chat(request(script=FaultScript(hold_after=1)), "sim")
    assert (await anext(stream)).text == "w0 "
    await stream.aclose()
    await simulator.ended()
    assert simulator.log[0].ended == "disconnected"
    assert simulator.running == 0


async def test_cancelling_before_the_model_server_answers(provider: LlmProvider, simulator: Simulator) -> None:
    """A request that waits in the model server's own queue leaves it when it is cancelled."""
    first = asyncio.create_task(answer(provider, FaultScript(hold_after=0)))
    await simulator.held()
    second = asyncio.create_task(answer(provider))
    await simulator.wait_for(lambda: len(simulator.log) == 2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await simulator.ended()
    assert [received.ended for received in simulator.log] == [None, "disconnected"]
    simulator.release()
    assert len(await first) == 5


async def test_connections_are_used_again(provider: LlmProvider, simulator: Simulator) -> None:
    """One request after another goes over one connection."""
    for _ in range(3):
        await answer(provider)
    assert len({received.peer for received in simulator.log}) == 1


@pytest.mark.parametrize(
    ("instances", "capacity"),
    [([], 4), ([{"config": {}}], 4), ([{"config": {"parallel": 2}}, {"config": {"parallel": 8}}], 2)],
)
async def test_lm_studios_capacity(instances: list[dict[str, object]], capacity: int) -> None:
    """What its loaded models take at once; its own default, where it does not say."""
    page = {"models": [{"type": "llm", "key": "m", "loaded_instances": instances}]}
    async with driven("lmstudio", {"GET /api/v1/models": page}) as (provider, _):
        assert await provider.capacity() == capacity


async def test_llama_cpp_is_not_kept_awake() -> None:
    """What takes work to find out of a model is asked once, and again of another or after it was away."""
    props: dict[str, object] = {"total_slots": 1, "model_path": "/a.gguf", "build_info": "b1"}
    listing = {"data": [{"id": "m", "object": "model", "meta": {}}]}
    answers: dict[str, Any] = {
        "GET /v1/models": listing,
        "GET /props": lambda _: Reply(props),
        "POST /apply-template": {"prompt": "Once upon"},
        "POST /v1/embeddings": {"data": []},
    }
    async with driven("llamacpp", answers) as (provider, server):
        for _ in range(3):
            (model,) = await provider.models()
            assert {"prefill", "embed"} <= {*model.capabilities}
        assert len(server.asked) == 2
        props["model_path"] = "/b.gguf"
        await provider.models()
        assert len(server.asked) == 4
        server.answers["GET /v1/models"] = Reply({}, 503)
        with pytest.raises(ProviderDown):
            await provider.models()
        server.answers["GET /v1/models"] = Reply(listing)
        await provider.models()
        assert len(server.asked) == 6
