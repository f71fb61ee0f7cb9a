"""Frameworks and tools that bring a client of their own: each asks in the way its users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.clients.behind import FULL, Door

from tokenlane.benches.simulator.fault_script import FaultScript

pydantic_ai = pytest.importorskip("pydantic_ai", reason="`make test-clients` installs it")

import instructor  # noqa: E402 - after the line above, which says what to do without it
import litellm  # noqa: E402
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # noqa: E402
from openai import OpenAI  # noqa: E402
from pydantic_ai import Agent, BinaryContent, NativeOutput  # noqa: E402
from pydantic_ai.exceptions import ModelHTTPError  # noqa: E402
from pydantic_ai.models import Model  # noqa: E402
from pydantic_ai.models.anthropic import AnthropicModel  # noqa: E402
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # noqa: E402
from pydantic_ai.providers.anthropic import AnthropicProvider  # noqa: E402
from pydantic_ai.providers.openai import OpenAIProvider  # noqa: E402

TEXT = "w0 w1 w2"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


class City(BaseModel):
    """What is asked for as an object."""

    name: str
    inhabitants: int


def chats(door: Door, model: str) -> Model:
    return OpenAIChatModel(model, provider=OpenAIProvider(base_url=door.openai, api_key=door.key))


def responses(door: Door, model: str) -> Model:
    return OpenAIResponsesModel(model, provider=OpenAIProvider(base_url=door.openai, api_key=door.key))


def messages(door: Door, model: str) -> Model:
    return AnthropicModel(model, provider=AnthropicProvider(base_url=door.url, api_key=door.key))


APIS = pytest.mark.parametrize("api", [chats, responses, messages])


@APIS
async def test_pydantic_ai(api: Callable[[Door, str], Model], door: Door) -> None:
    """An agent streams, calls its tool and uses the result, and counts tokens."""
    called: list[int] = []

    def f(a: int) -> str:
        called.append(a)
        return "7"

    agent = Agent(api(door, "sim"), tools=[f])
    whole = await agent.run("q")
    assert (called, whole.output.strip()) == ([1], TEXT)
    assert whole.usage.output_tokens > 3
    async with agent.run_stream("q") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True)]
    assert (called, "".join(pieces).strip()) == ([1, 1], TEXT)


@APIS
async def test_pydantic_ai_gets_an_object(api: Callable[[Door, str], Model], door: Door) -> None:
    """By a schema where the framework has one for this API, and by a tool."""
    by_tool = await Agent(api(door, "sim"), output_type=City).run("q")
    assert by_tool.output.inhabitants == 1
    if api is not messages:  # only for models that the framework knows to have schemas
        by_schema = await Agent(api(door, "sim"), output_type=NativeOutput(City)).run("q")
        assert by_schema.output.inhabitants == 1


@APIS
async def test_pydantic_ai_sends_a_picture(api: Callable[[Door, str], Model], door: Door) -> None:
    answer = await Agent(api(door, "vision")).run(["q", BinaryContent(PNG, media_type="image/png")])
    assert answer.output.strip() == TEXT


@APIS
async def test_pydantic_ai_is_refused(api: Callable[[Door, str], Model], door: Door) -> None:
    with pytest.raises(ModelHTTPError) as refused:
        await Agent(api(door, "none")).run("q")
    assert refused.value.status_code == 404


async def test_pydantic_ai_sees_reasoning(door: Door) -> None:
    answer = await Agent(chats(door, "thinker")).run("q")
    assert [part.part_kind for part in answer.response.parts] == ["thinking", "text"]


def test_langchain(door: Door) -> None:
    """It streams, calls a tool, gets an object, and counts tokens."""
    model = ChatOpenAI(model="sim", base_url=door.openai, api_key=door.key, max_retries=0, stream_usage=True)
    whole = model.invoke("q")
    assert (whole.text.strip(), whole.usage_metadata["output_tokens"]) == (TEXT, 3)
    chunks = [*model.stream("q")]
    assert "".join(chunk.text for chunk in chunks).strip() == TEXT
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 3
    called = model.bind_tools([City]).invoke("q")
    assert called.tool_calls[0]["args"]["inhabitants"] == 1
    assert model.with_structured_output(City).invoke("q").inhabitants == 1


def test_langchain_by_responses(door: Door) -> None:
    model = ChatOpenAI(model="sim", base_url=door.openai, api_key=door.key, use_responses_api=True)
    assert model.invoke("q").text.strip() == TEXT
    assert "".join(chunk.text for chunk in model.stream("q")).strip() == TEXT
    assert model.bind_tools([City]).invoke("q").tool_calls[0]["name"] == "City"


@pytest.mark.parametrize("name", ["openai/sim", "openai/responses/sim"])
def test_litellm(name: str, door: Door) -> None:
    """Its SDK streams, calls a tool, and raises its own errors."""
    asked = {"messages": [{"role": "user", "content": "q"}], "api_base": door.openai, "api_key": door.key}
    whole = litellm.completion(model=name, **asked)
    assert (whole.choices[0].message.content.strip(), whole.usage.completion_tokens) == (TEXT, 3)
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(model=name, stream=True, **asked)]
    assert "".join(pieces).strip() == TEXT
    tool = {"type": "function", "function": {"name": "f", "parameters": City.model_json_schema()}}
    called = litellm.completion(model=name, tools=[tool], **asked)
    assert called.choices[0].message.tool_calls[0].function.name == "f"
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model=name.replace("sim", "none"), **asked)


def test_litellm_by_messages(door: Door) -> None:
    asked = {
        "messages": [{"role": "user", "content": "q"}],
        "api_base": door.url,
        "api_key": door.key,
        "max_tokens": 99,
    }
    assert litellm.completion(model="anthropic/sim", **asked).choices[0].message.content.strip() == TEXT


def test_litellm_meets_a_full_role(door: Door) -> None:
    """It raises the error on which people retry."""
    asked = {"messages": [{"role": "user", "content": "q"}], "api_base": door.openai, "api_key": door.key}
    door.simulator.faults.append(FaultScript(hold_after=1))
    running = litellm.completion(model=f"openai/{FULL}", stream=True, **asked)
    next(running)
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(model=f"openai/{FULL}", num_retries=0, max_retries=0, **asked)
    door.simulator.release()
    assert [*running]


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON])
def test_instructor(mode: instructor.Mode, door: Door) -> None:
    """An object by a tool, by a schema, and as JSON of no schema, where only the prompt says what is wanted."""
    client = instructor.from_openai(OpenAI(base_url=door.openai, api_key=door.key, max_retries=0), mode=mode)
    question = {"messages": [{"role": "user", "content": "q"}], "model": "sim"}
    if mode is instructor.Mode.JSON:
        door.simulator.faults.append(FaultScript(pieces=('{"name": "Paris", ', '"inhabitants": 1}')))
    assert client.chat.completions.create(response_model=City, max_retries=0, **question).inhabitants == 1


@pytest.mark.parametrize("streamed", [True, False])
def test_llm(streamed: bool, door: Door, tmp_path: Path) -> None:
    """The `llm` tool, with a model of its configuration, and a schema."""
    model = "- model_id: pool\n  model_name: sim\n  api_key_name: tokenlane\n  supports_schema: true\n"
    (tmp_path / "extra-openai-models.yaml").write_text(f"{model}  api_base: {door.openai}\n")
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    asking = [
        str(Path(sys.executable).parent / "llm"),
        "--key",
        door.key,
        "--model",
        "pool",
        *(() if streamed else ("--no-stream",)),
    ]
    for options, said in (((), TEXT), (("--schema", "name, inhabitants int"), '"inhabitants": 1')):
        ended = subprocess.run([*asking, *options, "q"], env=environment, capture_output=True, text=True, timeout=150)
        assert ended.returncode == 0, ended.stderr
        assert said in ended.stdout


def test_embeddings_of_langchain(door: Door) -> None:
    """Two texts get two vectors."""
    model = OpenAIEmbeddings(model="embed", base_url=door.openai, api_key=door.key, check_embedding_ctx_length=False)
    assert len(model.embed_documents(["a", "b"])) == 2
