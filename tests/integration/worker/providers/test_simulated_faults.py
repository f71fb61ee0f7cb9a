"""Each way a simulated server fails, as the provider of its kind tells it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tokenlane.benches.simulator import Fault, Model, Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import (
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
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.worker.providers import default_registry

APIS = ("ollama", "vllm", "lmstudio", "tgi", "llamacpp", "openai")


def lane(api: str, url: str) -> LaneSettings:
    return LaneSettings("gpu0", api, url, token_timeout_s=0.3, first_token_timeout_s=0.6)


async def asked(api: str, url: str, model: str = "sim", text: str = "q") -> tuple[str, LlmError | None]:
    """What the provider delivers, and the error it ends in."""
    said: list[str] = []
    request = ChatRequest.model_validate({"role": "r", "messages": [{"role": "user", "content": text}]})
    async with default_registry().create(lane(api, url)) as provider:
        try:
            async for delta in provider.chat(request, model):
                said.append(delta.text)
        except LlmError as error:
            return "".join(said), error
    return "".join(said), None


FAULTS: dict[str, tuple[dict[str, Any], type[LlmError] | None, str]] = {
    "refuse": ({"drop": True, "times": 2}, ProviderDown, ""),
    "429": ({"status": 429, "retry_after": "7"}, RateLimited, ""),
    "503": ({"status": 503}, ProviderDown, ""),
    "503 with Retry-After": ({"status": 503, "retry_after": "7"}, ProviderDown, ""),
    "stall before": ({"ttft_ms": 5000}, Timeout, ""),
    "stall between": ({"stall_after": 2, "stall_ms": 5000}, Timeout, "w0 w1 "),
    "half open": ({"half_open_after": 2}, Timeout, "w0 w1 "),
    "cut": ({"cut_after": 2}, ProviderDown, "w0 w1 "),
    "malformed": ({"malformed_after": 2}, UnreadableAnswer, "w0 w1 "),
    "error": ({"error_after": 2}, ProviderDown, "w0 w1 "),
    "no end": ({"no_end": True}, Interrupted, "w0 w1 w2 w3 "),
    "endless line": ({"endless_line_after": 2}, UnreadableAnswer, "w0 w1 "),
    "redirect": ({"location": "http://127.0.0.2:9/"}, ProviderDown, ""),
    "gzip bomb": ({"gzip_bomb_bytes": 200_000_000}, LlmError, ""),
    "endless headers": ({"endless_headers": True}, ProviderDown, ""),
    "slow drip": ({"split_bytes": 40, "split_ms": 1}, None, "w0 w1 w2 w3 "),
    "split UTF-8": ({"pieces": ["é", "中", "😀"], "split_bytes": 1}, None, "é中😀"),
    "duplicate": ({"duplicate_after": 2}, None, "w0 w1 w1 w2 w3 "),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("api", APIS)
async def test_each_fault(api: str, name: str) -> None:
    """Each fault is the error it should be, after what was delivered; the next request is served as ever."""
    keys, expected, before = FAULTS[name]
    async with Simulator(api=api, tokens=4, capacity=1, faults=[Fault.model_validate(keys)]) as simulator:
        text, error = await asked(api, simulator.url)
        assert text == before
        if expected is None:
            assert error is None
        else:
            assert isinstance(error, expected)
            assert (error.provider, error.lane) == (api, "gpu0")
            assert error.retry_after_s == (7 if "retry_after" in keys else None)
        served = await asked(api, simulator.url)
        if name == "refuse" and served[1] is not None:  # only a request over an idle connection was sent once more
            served = await asked(api, simulator.url)
        assert served == ("w0 w1 w2 w3 ", None)
        await simulator.wait_for(lambda: simulator.running == 0)


@pytest.mark.parametrize("api", ["vllm", "lmstudio", "llamacpp", "ollama", "openai"])
async def test_a_wrong_model(api: str) -> None:
    """An answer of another model is not delivered. TGI repeats whatever name it is given."""
    async with Simulator(api=api, faults=[Fault(answers_as="other")]) as simulator:
        text, error = await asked(api, simulator.url)
    assert text == ""
    assert isinstance(error, ModelNotFound)


@pytest.mark.parametrize("api", APIS)
async def test_too_long_a_prompt(api: str) -> None:
    """It is refused in each server's words, in the stream where that one does so."""
    async with Simulator(api=api, models=[Model("sim", context_length=50)]) as simulator:
        text, error = await asked(api, simulator.url, text="word " * 60)
    assert text == ""
    assert isinstance(error, ContextTooLong)


@pytest.mark.parametrize("api", ["vllm", "lmstudio", "llamacpp", "openai", "tgi"])
async def test_a_key_that_is_missing(api: str) -> None:
    """Each server's 401 is Unauthorized, and the error keeps the status for the worker's log."""
    async with Simulator(api=api, api_key="sk-1") as simulator:
        _, error = await asked(api, simulator.url)
    assert isinstance(error, Unauthorized)
    assert error.http_status == 401


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fault", [{"out_of_memory": True}, {"unloaded": True}, {"unload_after": 2}])
async def test_a_model_that_goes(api: str, fault: dict[str, Any]) -> None:
    """A model that cannot be loaded, or is taken away in mid-answer, is never a whole answer."""
    async with Simulator(api=api, tokens=4, faults=[Fault.model_validate(fault)]) as simulator:
        text, error = await asked(api, simulator.url)
    assert text == ("w0 w1 " if "unload_after" in fault else "")
    assert isinstance(error, LlmError)


async def test_a_half_open_connection_holds_no_slot() -> None:
    """The engine goes on with others while a client waits for what will not come."""
    async with Simulator(capacity=1, tokens=2, faults=[Fault(half_open_after=1)]) as simulator:
        async with httpx.AsyncClient(base_url=simulator.url, timeout=10) as client:
            body = {"messages": [], "stream": True}
            async with client.stream("POST", "/v1/chat/completions", json=body) as silent:
                await anext(silent.aiter_lines())
                await simulator.wait_for(lambda: simulator.running == 0)
                assert (await client.post("/v1/chat/completions", json={"messages": []})).status_code == 200


async def test_memory() -> None:
    """What was used longest ago goes for what is asked for; what is in use stays; what never fits is refused."""
    models = [Model("a", 4), Model("b", 4), Model("c", 4), Model("huge", 100)]
    async with Simulator(api="ollama", models=models, memory_bytes=8, tokens=1) as simulator:
        for name in ("a", "b", "a", "c"):
            assert (await asked("ollama", simulator.url, name))[1] is None
        assert {instance.model.name for instance in simulator.models.loaded()} == {"a:latest", "c:latest"}
        _, error = await asked("ollama", simulator.url, "huge")
        assert isinstance(error, ProviderDown)


async def test_a_load_is_waited_for_once() -> None:
    """Requests that come while a model loads wait for the same load."""
    async with Simulator(api="lmstudio", models=["m"], load_ms=100, tokens=1, capacity=8) as simulator:
        answers = await asyncio.gather(*(asked("lmstudio", simulator.url, "m") for _ in range(4)))
        assert {text for text, _ in answers} == {"w0 "}
        assert [instance.id for instance in simulator.models.loaded()] == ["m"]


async def test_a_pull_goes_on_where_it_broke_off() -> None:
    """What has come stays when the client goes; the next pull needs the rest alone, and the model is there then."""
    faults = [Fault(path="/api/pull", cut_after=6)]
    async with Simulator(api="ollama", models=["m"], pullable=["new"], faults=faults) as simulator:
        async with httpx.AsyncClient(base_url=simulator.url, timeout=10) as client:
            with pytest.raises(httpx.HTTPError):
                await client.post("/api/pull", json={"model": "new"})
            assert simulator.models.find("new") is None
            lines = (await client.post("/api/pull", json={"model": "new"})).text.splitlines()
        assert '"success"' in lines[-1]
        assert sum('"pulling manifest"' not in line and '"pulling ' in line for line in lines) == 12 - 5
        assert simulator.models.find("new") is not None
        assert [received.ended for received in simulator.log] == ["failed", "completed"]


async def test_the_log() -> None:
    """It has what each request was sent so far, by whom it came, and no credentials."""
    async with Simulator(api="vllm", tokens=4, seed=5, faults=[Fault(cut_after=3)]) as simulator:
        body = {"model": "sim", "messages": [{"role": "user", "content": "q"}], "stream": True}
        headers = {"X-Request-Id": "r-1", "Authorization": "Bearer sk-secret"}
        async with httpx.AsyncClient(base_url=simulator.url, headers=headers) as client:
            with pytest.raises(httpx.HTTPError):
                await client.post("/v1/chat/completions", json=body)
            (entry,) = (await client.get("/simulator/log")).json()
            whole = (await client.post("/v1/chat/completions", json={**body, "stream": False})).json()
            assert (await client.get("/simulator/state")).json()["loaded"] == ["sim"]
            assert [each["index"] for each in (await client.get("/simulator/log?since=1")).json()] == [1]
    assert (entry["ended"], entry["sent"], entry["path"]) == ("failed", 3, "/v1/chat/completions")
    assert {name.lower(): value for name, value in entry["headers"].items()}["x-request-id"] == "r-1"
    assert "sk-secret" not in str(entry)
    assert whole["choices"][0]["message"]["content"].startswith(entry["text"])
    assert whole["id"] == "chatcmpl-r-1"
