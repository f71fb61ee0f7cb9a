"""What tells the simulated servers apart on the wire, as their clients see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tokenlane.benches.simulator import Fault, Model, Simulator
from tokenlane.benches.simulator.fault_script import FaultScript

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}


def body(*turns: str, **more: object) -> dict[str, object]:
    """A streamed request whose turns are the user's and the assistant's by turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns or ("q",))]
    return {"model": "sim", "messages": messages, "stream": True, **more}


@asynccontextmanager
async def served(api: str, **options: Any) -> AsyncIterator[tuple[Simulator, httpx.AsyncClient]]:
    """A simulated server, and a client of it."""
    async with Simulator(api=api, **{"tokens": 3, **options}) as simulator:
        async with httpx.AsyncClient(base_url=simulator.url, timeout=10) as client:
            yield simulator, client


async def events(client: httpx.AsyncClient, path: str, asked: dict[str, object]) -> list[Any]:
    """The JSON of all events, `[DONE]` as a word."""
    response = await client.post(path, json=asked)
    assert response.status_code == 200
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return ["[DONE]" if line == "[DONE]" else json.loads(line) for line in data]


def deltas(found: list[Any]) -> list[Any]:
    return [event["choices"][0]["delta"] for event in found if event != "[DONE]" and event["choices"]]


async def test_roles_and_usage() -> None:
    """The role comes first and alone, or in each chunk; the usage in a chunk without choices, if it was asked for."""
    asked = body(stream_options={"include_usage": True})
    for api in ("vllm", "openai", "llamacpp"):
        async with served(api) as (_, client):
            *found, usage, done = await events(client, CHAT, asked)
        assert [delta.get("role") for delta in deltas(found)] == ["assistant", None, None, None, None]
        assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 3, "[DONE]")
    for api in ("lmstudio", "tgi"):
        async with served(api) as (_, client):
            found = await events(client, CHAT, body())
        assert [delta.get("role") for delta in deltas(found)] == ["assistant"] * 4
        assert all(event == "[DONE]" or event["choices"] for event in found)


@pytest.mark.parametrize(
    ("api", "more", "expected"),
    [
        ("vllm", {"continue_final_message": True, "add_generation_prompt": False}, ["", "1 ", "w2 "]),
        (
            "vllm",
            {"continue_final_message": True, "add_generation_prompt": False, "echo": True},
            ["", "w0 w", "1 ", "w2 "],
        ),
        ("vllm", {}, ["", "w0 ", "w1 ", "w2 "]),
        ("openai", {}, ["", "w0 ", "w1 ", "w2 "]),
        ("lmstudio", {}, ["1 ", "w2 ", ""]),
        ("tgi", {}, ["1 ", "w2 ", ""]),
        ("llamacpp", {}, ["", "w0 w1 ", "w2 "]),
    ],
)
async def test_a_begun_answer(api: str, more: dict[str, object], expected: list[str]) -> None:
    """Each server continues a last assistant message when it does, and repeats it or not."""
    async with served(api) as (_, client):
        found = await events(client, CHAT, body("q", "w0 w", **more))
    assert [delta["content"] for delta in deltas(found) if "content" in delta] == expected


async def test_how_answers_end() -> None:
    """Stop strings, calls and reasoning have each server's own names."""
    ends = {"vllm": "stop", "lmstudio": "stop", "tgi": "stop_sequence", "llamacpp": "stop", "openai": "stop"}
    for api, reason in ends.items():
        async with served(api) as (_, client):
            answer = (await client.post(CHAT, json=body(stop=["w2"], stream=False))).json()["choices"][0]
            assert answer["finish_reason"] == reason
            assert answer["message"]["content"] == ("w0 w1 w2" if api == "tgi" else "w0 w1 ")
            called = (await client.post(CHAT, json=body(tools=[TOOL], stream=False))).json()["choices"][0]
            assert called["finish_reason"] == ("stop" if api == "tgi" else "tool_calls")
            assert json.loads(called["message"]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    fields = {"vllm": "reasoning", "lmstudio": "reasoning_content", "tgi": None}
    for api, field in fields.items():
        async with served(api, models=["thinker"]) as (_, client):
            message = (await client.post(CHAT, json=body(model="thinker", stream=False))).json()["choices"][0][
                "message"
            ]
        assert message[field] if field else message["content"].startswith("<think>")


@pytest.mark.parametrize(
    ("api", "model", "status", "dimensions"),
    [
        ("openai", "embed", 200, 8),
        ("ollama", "embed", 200, 8),
        ("vllm", "matryoshka-embed", 200, 8),
        ("vllm", "embed", 400, None),
        ("lmstudio", "embed", 200, 64),
        ("llamacpp", "embed", 200, 64),
    ],
)
async def test_dimensions(api: str, model: str, status: int, dimensions: int | None) -> None:
    """Vectors are cut to the size that is asked for by servers that do so; vLLM refuses it unless the model is made
    for it."""
    async with served(api, models=[model]) as (_, client):
        asked = {"model": model, "input": "a", "dimensions": 8}
        response = await client.post("/v1/embeddings", json=asked)
        assert response.status_code == status
        if dimensions is not None:
            assert len(response.json()["data"][0]["embedding"]) == dimensions


async def test_ollama_moves_models() -> None:
    """Without messages a model is loaded or unloaded; `keep_alive` says how long it stays; a name may lack its tag."""
    async with served("ollama", models=["sim", "embed"]) as (simulator, client):

        async def loaded() -> list[str]:
            return [model["name"] for model in (await client.get("/api/ps")).json()["models"]]

        told = await client.post("/api/generate", json={"model": "SIM", "keep_alive": -1})
        assert told.json()["done_reason"] == "load"
        assert await loaded() == ["sim:latest"]
        tags = {model["name"]: model["digest"] for model in (await client.get("/api/tags")).json()["models"]}
        (running,) = (await client.get("/api/ps")).json()["models"]
        assert (running["digest"], running["expires_at"][:4]) == (tags["sim:latest"], "2318")
        held = asyncio.create_task(client.post("/api/chat", json=body(simulate={"hold_after": 1})))
        await simulator.held()
        told = await client.post("/api/chat", json={"model": "sim", "keep_alive": 0})
        assert told.json()["done_reason"] == "unload"
        assert await loaded() == ["sim:latest"]  # until its request is over
        simulator.release()
        assert (await held).status_code == 200
        assert await loaded() == []
        assert (await client.post("/api/embed", json={"model": "embed"})).json()["embeddings"] == []
        assert await loaded() == ["embed:latest"]
        await client.post("/api/embed", json={"model": "embed", "input": "x", "keep_alive": "0s"})
        assert await loaded() == []
        assert (await client.post("/api/generate", json={"model": "no"})).json() == {"error": "model 'no' not found"}


async def test_lm_studio_keeps_instances() -> None:
    """A second load is a second instance; unloading wants its id; unknown routes are 200; downloads are jobs."""
    native = "/api/v1/models"
    async with served("lmstudio", models=["m"], pullable=["new", Model("bad", corrupt=True)]) as (
        simulator,
        client,
    ):
        ids = [(await client.post(f"{native}/load", json={"model": "m"})).json()["instance_id"] for _ in range(2)]
        assert ids == ["m", "m:2"]
        assert (await client.post(f"{native}/unload", json={"instance_id": "m:2"})).status_code == 200
        (listed,) = (await client.get(native)).json()["models"]
        assert [instance["id"] for instance in listed["loaded_instances"]] == ["m"]
        assert (await client.post(CHAT, json=body(model="other", stream=False))).json()["model"] == "m"
        assert (await client.get("/nosuch")).status_code == 200
        assert (await client.post(CHAT, json=body(response_format={"type": "json_object"}))).json() == {
            "error": "'response_format.type' must be 'json_schema' or 'text'"
        }
        for name, status in (("new", "completed"), ("bad", "failed")):
            job = (await client.post(f"{native}/download", json={"model": name})).json()
            told = (await client.get(f"{native}/download/status/{job['job_id']}")).json()
            assert (told["status"], simulator.models.find(name) is not None) == (status, status == "completed")
        assert (await client.post(f"{native}/download", json={"model": "new"})).json() == {
            "status": "already_downloaded"
        }
        assert (await client.post(f"{native}/download", json={"model": "no"})).json()["error"][
            "type"
        ] == "model_not_found"


async def test_vllm_sleeps() -> None:
    """Sleeping aborts what runs and refuses what comes, until it wakes; metrics tell."""
    async with served("vllm", tokens=1000, itl_ms=5) as (simulator, client):
        running = asyncio.create_task(events(client, CHAT, body()))
        await simulator.wait_for(lambda: simulator.running == 1)
        assert "vllm:num_requests_running" in (await client.get("/metrics")).text
        assert (await client.post("/sleep?level=1")).json() == {"status": "sleeping", "level": 1}
        *_, finish, done = await running
        assert (finish["choices"][0]["finish_reason"], done) == ("abort", "[DONE]")
        assert (await client.post(CHAT, json=body())).status_code == 503
        await client.post("/wake_up")
        assert (await client.post(CHAT, json=body(max_tokens=1))).status_code == 200


async def test_tgi_streams_refusals() -> None:
    """A refused stream is status 200 and an event, a whole answer a true status; its own route has no `[DONE]`."""
    async with served("tgi", models=[Model("m", context_length=20)]) as (_, client):
        long = body("word " * 30)
        failed, done = await events(client, CHAT, long)
        assert (failed["error"]["http_status_code"], done) == (422, "[DONE]")
        refused = await client.post(CHAT, json={**long, "stream": False})
        assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
        *_, last = await events(client, "/generate_stream", {"inputs": "q", "parameters": {"details": True}})
        assert (last["generated_text"], last["details"]["finish_reason"]) == ("w0 w1 w2 ", "eos_token")
        assert (await client.post("/v1/embeddings", json={})).status_code == 404


async def test_errors_in_mid_stream() -> None:
    """vLLM and TGI say `[DONE]` after an error, LM Studio names the event, Ollama's other API loses it."""
    for api, ends in (("vllm", True), ("tgi", True), ("openai", False), ("lmstudio", False), ("llamacpp", False)):
        async with served(api, faults=[FaultScript(error_after=1)]) as (_, client):
            text = (await client.post(CHAT, json=body())).text
        assert ('"error"' in text, text.endswith("[DONE]\n\n")) == (True, ends)
        assert ("event: error" in text) is (api == "lmstudio")
    async with served("ollama", faults=[FaultScript(error_after=1), FaultScript(error_after=1)]) as (_, client):
        assert '"error"' not in (await client.post(CHAT, json=body())).text
        assert json.loads((await client.post("/api/chat", json=body())).text.splitlines()[-1]) == {"error": "simulated"}


async def test_a_queue_that_is_full() -> None:
    """What is more than slots and queue hold is refused in the server's words; leaving the queue makes room."""
    status = {"ollama": 503, "vllm": 503, "openai": 429, "llamacpp": 503}
    for api, expected in status.items():
        path = "/api/chat" if api == "ollama" else CHAT
        async with served(api, capacity=1, queue=1, faults=[Fault(hold_after=0)]) as (simulator, client):
            first = asyncio.create_task(client.post(path, json=body()))
            await simulator.held()
            second = asyncio.create_task(client.post(path, json=body()))
            while simulator.engine.waiting < 1:
                await asyncio.sleep(0)
            assert (await client.post(path, json=body())).status_code == expected
            simulator.release()
            assert [(await each).status_code for each in (first, second)] == [200, 200]
