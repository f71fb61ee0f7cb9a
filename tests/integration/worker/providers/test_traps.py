"""What each server does differently from what one would think, one test a trap.

Those of all are in `test_providers`: a stream is whole only by its finish mark, an error may come with status 200,
usage comes in a chunk without choices, chunks are cut anywhere, lines are long, and nobody sends Retry-After.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests import pages
from tests.fake_server import Reply, answer_of, ask, driven, ndjson, sse

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    ImagesNotAccepted,
    Interrupted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RateLimited,
    Unauthorized,
    UnreadableAnswer,
)

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
PICTURE = "data:image/png;base64,QUJD"


def chunk(delta: object, finish: str | None = None, model: str = "m", **more: object) -> dict[str, object]:
    return {"id": "", "model": model, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def text(*pieces: str, finish: str = "stop", model: str = "m") -> Reply:
    """A plain answer in OpenAI's dialect."""
    return sse(*(chunk({"role": "assistant", "content": piece}, model=model) for piece in pieces), chunk({}, finish))


def usage(tokens: int) -> dict[str, object]:
    return {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}


def line(content: str = "", done: bool = False, **more: object) -> dict[str, object]:
    return {"model": "m", "message": {"role": "assistant", "content": content}, "done": done, **more}


TGI = {f"GET {path}": page for path, page in pages.TGI.items()} | {"GET /info": {**pages.TGI["/info"], "model_id": "m"}}
CHATS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (CHAT, {}),
    "vllm": (CHAT, {}),
    "lmstudio": (CHAT, {}),
    "llamacpp": (CHAT, {}),
    "tgi": (CHAT, TGI),
}


async def asked(name: str, reply: Reply, **options: Any) -> tuple[list[TokenDelta], Any]:
    """The deltas of an answer, and the body that was sent."""
    path, more = CHATS[name]
    resume = options.pop("resume", None)
    async with driven(name, {f"POST {path}": reply, **more}) as (provider, server):
        deltas = [delta async for delta in provider.chat(ask(**options), "m", resume)]
        return deltas, server.last(path)


def said(deltas: list[TokenDelta]) -> tuple[str, str]:
    return "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas)


def picture(url: str = PICTURE) -> dict[str, Any]:
    parts = [{"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


# Of several.


@pytest.mark.parametrize("name", CHATS)
async def test_reasoning_has_three_spellings(name: str) -> None:
    """`reasoning`, `reasoning_content`, and tags in the text, which may be cut anywhere."""
    for delta in ({"reasoning": "hm"}, {"reasoning_content": "hm"}):
        deltas, _ = await asked(name, sse(chunk(delta), chunk({"content": "so"}, "stop")))
        assert said(deltas) == ("so", "hm")
    deltas, _ = await asked(name, text("<th", "ink>h", "m</think", ">\n\nso"))
    assert said(deltas) == ("so", "hm")
    assert [delta.text for delta in (await asked(name, text("a", "<think>")))[0][:2]] == ["a", "<think>"]


@pytest.mark.parametrize("name", CHATS)
async def test_a_call_may_end_as_stop(name: str) -> None:
    """TGI, and vLLM for a named tool, end a call as they end text; pieces belong together by their index."""
    pieces = [
        {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x": '}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]
    tool = {"type": "function", "function": {"name": "f"}}
    deltas, body = await asked(
        name, sse(*(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, "stop")), tools=[tool]
    )
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert ("".join(call.arguments for call in calls), calls[0].name, calls[0].id) == ('{"x": 1}', "f", "c")
    assert deltas[-1].finish_reason == "tool_calls"
    assert body["tools"] == [tool]


@pytest.mark.parametrize("name", CHATS)
async def test_no_tools_is_no_list(name: str) -> None:
    """An empty list, which vLLM refuses, is left out."""
    assert "tools" not in (await asked(name, text("a"), tools=[]))[1]


WINDOW = "This model's maximum context length is 64 tokens. However, "
BEFORE, WITHIN = "a status", "the stream"


@pytest.mark.parametrize(
    ("name", "words", "place", "tokens"),
    [
        ("vllm", WINDOW + "your prompt contains 99 input tokens.", BEFORE, 99),
        ("vllm", WINDOW + "you requested 9 output tokens and your prompt contains at least 56 input tokens, for a "
         "total of at least 65 tokens.", BEFORE, "at least 65"),
        ("vllm", "max_tokens=99 cannot be greater than max_model_len=64. Please request fewer.", BEFORE, 99),
        ("openai", WINDOW + "your messages resulted in 99 tokens.", BEFORE, 99),
        ("llamacpp", "request (99 tokens) exceeds the available context size (64 tokens)", BEFORE, 99),
        ("lmstudio", "Input does not fit in context length. The input has 99 tokens, but the context length only "
         "supports 64 tokens.", WITHIN, 99),
        ("tgi", "Input validation error: `inputs` must have less than 64 tokens. Given: 99", WITHIN, 99),
        ("tgi", "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 64. Given: 60 `inputs` tokens "
         "and 9 `max_new_tokens`", WITHIN, 69),
    ],
)  # fmt: skip
async def test_too_long_a_prompt(name: str, words: str, place: str, tokens: int | str) -> None:
    """Each says it in its own words, some in the stream; the error names the numbers."""
    said = {"error": {"message": words}}
    with pytest.raises(ContextTooLong, match=rf"\b{tokens}\b.*\b64\b"):
        await asked(name, Reply(said, 400) if place == BEFORE else sse(said))


@pytest.mark.parametrize("name", [name for name in CHATS if name != "tgi"])
async def test_another_model_answers(name: str) -> None:
    """LM Studio may run whatever is loaded; nothing that it says is delivered."""
    with pytest.raises(ModelNotFound) as raised:
        await asked(name, text("secret", model="n"))
    assert "'n'" in raised.value.detail


# Ollama.


async def chat_ollama(reply: Reply, **options: Any) -> tuple[list[TokenDelta], Any]:
    async with driven("ollama", {"POST /api/chat": reply}) as (provider, server):
        return [delta async for delta in provider.chat(ask(**options), "m")], server.last("/api/chat")


async def test_ollama_cuts_prompts_unless_told() -> None:
    """It drops the oldest messages of a prompt that is too long unless it is told to refuse; then it says so."""
    _, body = await chat_ollama(ndjson(line("a", done=True)))
    assert body["truncate"] is False
    error = {"error": "the prompt is longer than the context length currently available"}
    with pytest.raises(ContextTooLong):
        await chat_ollama(Reply(error, 400))


async def test_ollamas_last_line_may_hold_text_and_may_be_missing() -> None:
    """The text of the line with `done` is not lost; without that line the answer is broken off."""
    deltas, _ = await chat_ollama(ndjson(line("a"), line("b", done=True, done_reason="stop")))
    assert said(deltas)[0] == "ab"
    with pytest.raises(Interrupted):
        await chat_ollama(ndjson(line("a")))


async def test_ollamas_reasoning_and_calls() -> None:
    """Reasoning comes in a separate field or in tags; a tool call comes complete, with an object of arguments."""
    call = {"function": {"index": 0, "name": "f", "arguments": {"x": 1}}}
    said_so = ndjson(
        {"model": "m", "message": {"content": "", "thinking": "h"}, "done": False},
        {"model": "m", "message": {"content": "", "tool_calls": [call]}, "done": True, "done_reason": "stop"},
    )
    deltas, _ = await chat_ollama(said_so)
    assert said(deltas) == ("", "h")
    assert deltas[1].tool_calls[0].arguments == '{"x":1}'
    assert deltas[-1].finish_reason == "tool_calls"
    assert said((await chat_ollama(ndjson(line("<think>h</think"), line(">s", done=True))))[0]) == ("s", "h")


@pytest.mark.parametrize(
    ("reply", "error", "retryable"),
    [
        (Reply({"error": "server busy, please try again.  maximum pending requests exceeded"}, 503), RateLimited, True),
        (Reply({"error": "model 'm' not found"}, 404), ModelNotFound, False),
        (Reply({"error": "m does not support tools"}, 400), BadRequest, False),
        (Reply({"error": "model runner has unexpectedly stopped"}, 500), ProviderDown, True),
        (Reply({"error": "this model is missing data required for image input"}, 500), ImagesNotAccepted, False),
        (Reply({"error": "request canceled"}, 499), ProviderDown, True),
        (Reply({"error": "unauthorized", "signin_url": "u"}, 401), Unauthorized, False),
        (Reply(b"", 403), ProviderDown, False),
        (ndjson({"error": "an error was encountered while running the model"}), ProviderDown, True),
        (ndjson(line(done=True, done_reason="load")), UnreadableAnswer, False),
    ],
)
async def test_ollamas_refusals(reply: Reply, error: type[LlmError], retryable: bool) -> None:
    """Each has its type."""
    with pytest.raises(LlmError) as raised:
        await chat_ollama(reply)
    assert (type(raised.value), raised.value.retryable) == (error, retryable)


@pytest.mark.parametrize(("can", "taken"), [(["completion", "vision"], True), (["completion"], False), (None, True)])
async def test_ollama_leaves_images_out_without_a_word(can: list[str] | None, taken: bool) -> None:
    """So before one goes to a model, it is asked whether that sees; they go without the prefix of their URL."""
    answers: dict[str, Any] = {"POST /api/show": {"capabilities": can}, "POST /api/chat": ndjson(line("a", done=True))}
    async with driven("ollama", answers) as (provider, server):
        if taken:
            assert await answer_of(provider, ask(**picture())) == "a"
            assert server.last("/api/chat")["messages"] == [{"role": "user", "content": "q", "images": ["QUJD"]}]
        else:
            with pytest.raises(BadRequest):
                await answer_of(provider, ask(**picture()))
            assert "/api/chat" not in [path for path, _ in server.asked]


# vLLM.


async def test_vllm_says_done_after_an_error() -> None:
    """An error in the stream is one, `[DONE]` behind it or not, and keeps its meaning; `abort` is no finish."""
    for code, error in ((500, ProviderDown), (503, ProviderDown), (404, ModelNotFound)):
        with pytest.raises(error):
            await asked("vllm", sse({"error": {"message": "m", "type": "t", "param": None, "code": code}}))
    with pytest.raises(Interrupted):
        await asked("vllm", text("a", finish="abort"))


async def test_vllms_words_that_are_no_objects() -> None:
    """Of a missing key and while it scales, the error is a bare text."""
    with pytest.raises(Unauthorized):
        await asked("vllm", Reply({"error": "Unauthorized"}, 401))
    with pytest.raises(ProviderDown) as scaling:
        await asked("vllm", Reply({"error": "The model is currently scaling"}, 503))
    assert scaling.value.retryable


async def test_vllm_ignores_what_it_once_knew() -> None:
    """The old names of guided output would be accepted and change nothing: they are refused."""
    with pytest.raises(BadRequest, match="guided_json"):
        await asked("vllm", text("a"), extra={"guided_json": {}})


@pytest.mark.parametrize(("tools", "sees"), [(True, False), (False, True)])
async def test_vllm_does_not_tell_what_it_was_started_for(tools: bool, sees: bool) -> None:
    """It is asked, a token's worth: of a tool, which wants a parser, and of an image."""

    def answer(question: Any) -> Reply:
        refused = not tools if "tools" in question else not sees if "image" in str(question) else False
        return Reply({"error": {"message": "m is not a multimodal model", "code": 400}}, 400) if refused else Reply({})

    served = {f"GET {path}": page for path, page in pages.VLLM.items()}
    async with driven("vllm", {**served, f"POST {CHAT}": answer}) as (provider, server):
        can = (await provider.models())[0].capabilities
        assert can == ("chat", "schema", "prefill", *(("tools",) if tools else ()), *(("vision",) if sees else ()))
        assert {body["max_tokens"] for _, body in server.asked} == {1}


async def test_vllm_is_asked_once_of_a_model() -> None:
    """What it was started for is asked again of another model, and where the answer was none."""
    entry = {"id": "m", "owned_by": "vllm", "root": "org/m", "max_model_len": 64}
    replies = [Reply({"error": "The model is currently scaling"}, 503), *[Reply({"error": {"code": 400}}, 400)] * 9]
    listed = {"GET /v1/models": lambda _: Reply({"data": [entry]}), f"POST {CHAT}": lambda _: replies.pop(0)}
    async with driven("vllm", {**listed, "GET /openapi.json": {"paths": {CHAT: {}}}}) as (provider, server):
        counts = []
        for root in ("org/m", "org/m", "org/m", "org/n", "org/n"):
            entry["root"] = root
            assert (await provider.models())[0].capabilities == ("chat", "schema", "prefill")
            counts.append(len(server.asked))
    assert counts == [2, 3, 3, 5, 5]


async def test_vllm_always_gets_a_model() -> None:
    """Without one it would take its base model."""
    assert (await asked("vllm", text("a")))[1]["model"] == "m"


async def test_vllm_continues() -> None:
    """It is told not to begin a new turn, and what a reasoning parser takes for reasoning is the text it is."""
    deltas, body = await asked(
        "vllm", sse(chunk({"reasoning": " France"}), chunk({}, "stop")), resume="The capital of "
    )
    assert said(deltas) == ("France", "")
    assert body["messages"][-1] == {"role": "assistant", "content": "The capital of"}
    assert (body["continue_final_message"], body["add_generation_prompt"], body["echo"]) == (True, False, False)
    refused = Reply({"error": {"message": "The final message does not appear in the chat", "code": 400}}, 400)
    with pytest.raises(BadRequest):
        await asked("vllm", refused, resume="x")


async def test_a_missing_route_is_no_missing_model() -> None:
    """A server for embeddings has no chat: that is a bad request, not a model that could be pulled."""
    with pytest.raises(BadRequest) as raised:
        await asked("vllm", Reply({"detail": "Not Found"}, 404))
    assert (raised.value.retryable, raised.value.detail) == (False, '{"detail": "Not Found"}')


# LM Studio.


async def test_lm_studio_answers_200_to_everything() -> None:
    """An unknown route is a page with an error; so is an error in its stream, before `[DONE]` or without."""
    with pytest.raises(BadRequest) as raised:
        await asked("lmstudio", Reply(pages.UNEXPECTED))
    assert pages.UNEXPECTED["error"] in raised.value.detail
    stream = b'event: error\ndata: {"error":{"message":"boom"},"message":"boom"}\n\n'
    with pytest.raises(ProviderDown):
        await asked("lmstudio", Reply(stream, kind="text/event-stream"))


async def test_lm_studio_says_nothing_where_a_prompt_does_not_fit() -> None:
    """No delta, a finish and no token counted is a prompt that is too long; an empty answer with a count is one."""
    with pytest.raises(ContextTooLong):
        await asked("lmstudio", sse(chunk({}, "stop"), usage(0)))
    assert (await asked("lmstudio", sse(chunk({}, "stop"), usage(1))))[0][-1].finish_reason == "stop"


async def test_of_an_answer_that_lm_studio_continues_nothing_may_be_left() -> None:
    """The answer broke off at its end. If not even the prompt was counted, it did not fit."""
    (last,) = (await asked("lmstudio", sse(chunk({}, "stop"), usage(0)), resume="Paris."))[0]
    assert (last.text, last.finish_reason) == ("", "stop")
    with pytest.raises(ContextTooLong):
        await asked("lmstudio", sse(chunk({}, "stop")), resume="Paris.")


async def test_lm_studios_second_copy() -> None:
    """A model that is loaded twice answers under the name of its second copy."""
    assert said((await asked("lmstudio", text("a", model="m:2")))[0]) == ("a", "")


@pytest.mark.parametrize(
    ("reply", "error", "retryable"),
    [
        (Reply({"error": {"message": "No models loaded.", "param": "model"}}, 404), ModelNotFound, False),
        (Reply({"error": {"type": "model_not_found", "message": "m"}}), ModelNotFound, False),
        (Reply({"error": {"type": "invalid_request", "code": "invalid_api_key"}}, 401), Unauthorized, False),
        (Reply({"error": "'response_format.type' must be 'json_schema' or 'text'"}, 400), BadRequest, False),
    ],
)  # fmt: skip
async def test_lm_studios_refusals(reply: Reply, error: type[LlmError], retryable: bool) -> None:
    """Some are objects and some are bare texts."""
    with pytest.raises(LlmError) as raised:
        await asked("lmstudio", reply)
    assert (type(raised.value), raised.value.retryable) == (error, retryable)


async def test_what_lm_studio_refuses_is_said_first() -> None:
    """`json_object`, and images that it would have to fetch."""
    with pytest.raises(BadRequest, match="json_schema"):
        await asked("lmstudio", text("a"), response_format={"type": "json_object"})
    with pytest.raises(BadRequest, match="data:image/"):
        await asked("lmstudio", text("a"), **picture("http://h/secret.png"))
    assert (await asked("lmstudio", text("a"), **picture()))[1]["messages"][0]["content"][1]["image_url"][
        "url"
    ] == PICTURE


async def test_white_space_alone_is_no_answer_to_continue() -> None:
    """vLLM would continue the user's message. It begins the answer, and its white space at the beginning is dropped."""
    deltas, body = await asked("vllm", sse(chunk({"content": "\n\nParis"}), chunk({}, "stop")), resume="\n\n")
    assert "continue_final_message" not in body
    assert "".join(delta.text for delta in deltas) == "Paris"


@pytest.mark.parametrize("pieces", [("The capital", " of France"), ("The capital of Fr", "ance"), (" Fr", "ance")])
async def test_lm_studio_may_repeat_what_it_continues(pieces: tuple[str, ...]) -> None:
    """Some versions do; what is new comes alone, once."""
    deltas, body = await asked("lmstudio", text(*pieces), resume="The capital of ")
    assert said(deltas)[0] == "France"
    assert body["messages"][-1]["content"] == "The capital of"


# TGI.


async def test_tgi_leaves_the_stop_word() -> None:
    """It ends as `stop_sequence`, the word being part of the text: it is taken off, in however many pieces it came."""
    deltas, _ = await asked("tgi", text("a", " ST", "OP", finish="stop_sequence"), stop=["STOP", "x"])
    assert said(deltas)[0] == "a "
    assert deltas[-1].finish_reason == "stop"
    assert said((await asked("tgi", text("a", " E", finish="length"), stop="END"))[0])[0] == "a E"


async def test_tgi_repeats_any_name() -> None:
    """So it is asked who it is, and another model than the one asked for is refused before it is run."""
    other = {**TGI, "GET /info": {**pages.TGI["/info"], "model_id": "n"}, f"POST {CHAT}": text("a")}
    async with driven("tgi", other) as (provider, server):
        with pytest.raises(ModelNotFound):
            await answer_of(provider, ask())
        assert server.asked == []


async def test_a_model_that_was_replaced_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again before a later request."""
    monkeypatch.setattr("tokenlane.worker.providers.openai.tgi._CHECK_AGAIN_S", -1)
    async with driven("tgi", {**TGI, f"POST {CHAT}": text("a")}) as (provider, server):
        assert await answer_of(provider, ask()) == "a"
        server.answers["GET /info"] = Reply({**pages.TGI["/info"], "model_id": "n"})
        with pytest.raises(ModelNotFound):
            await answer_of(provider, ask())


def in_stream(words: str) -> Reply:
    return sse({"error": {"message": words, "http_status_code": 422}})


@pytest.mark.parametrize(
    ("reply", "error", "retryable"),
    [
        (in_stream("Model is overloaded"), RateLimited, True),
        (in_stream("Input validation error: `top_p` must be > 0"), BadRequest, False),
        (in_stream("Request failed during generation: x"), ProviderDown, True),
        (in_stream("Incomplete generation stream"), ProviderDown, True),
        (Reply({"error": "Model is overloaded", "error_type": "overloaded"}, 429), RateLimited, True),
        (Reply({"error": "x", "error_type": "generation"}, 424), ProviderDown, True),
        (Reply({"error": "x", "error_type": "template_error"}, 422), BadRequest, False),
        (Reply(b"Failed to deserialize", 422, "text/plain"), BadRequest, False),
        (Reply(b"", 401), Unauthorized, False),
    ],
)  # fmt: skip
async def test_tgis_refusals(reply: Reply, error: type[LlmError], retryable: bool) -> None:
    """In a stream all have the status 200 and claim to be a 422: the words tell them apart."""
    with pytest.raises(LlmError) as raised:
        await asked("tgi", reply)
    assert (type(raised.value), raised.value.retryable) == (error, retryable)


async def test_data_without_a_space() -> None:
    """Old releases leave it out, and say no `[DONE]`."""
    stream = b'data:{"choices":[{"delta":{"content":"a"},"finish_reason":"eos_token"}],"usage":null}\n\n:\n\n'
    assert said((await asked("tgi", Reply(stream, kind="text/event-stream")))[0])[0] == "a"


async def test_tgis_own_shape_of_a_schema() -> None:
    """The schema stands under `value`, and does not go with tools."""
    _, body = await asked("tgi", text("{}"), response_format=SCHEMA)
    assert body["response_format"] == {"type": "json", "value": {"type": "object"}}
    with pytest.raises(BadRequest, match=r"tools.*response_format"):
        await asked("tgi", text("a"), response_format=SCHEMA, tools=[{"type": "function", "function": {"name": "f"}}])


@pytest.mark.parametrize(
    "options", [{"stop": ["1", "2", "3", "4", "5"]}, {"logit_bias": {"1": 2}}, {"repetition_penalty": 1.1}, picture()]
)
async def test_what_tgi_would_ignore_or_garble(options: dict[str, Any]) -> None:
    """It is refused before it is sent; the address of an image would become part of the prompt."""
    with pytest.raises(BadRequest):
        await asked("tgi", text("a"), **options)


async def test_tgi_that_sees() -> None:
    """A model for images takes them."""
    sees = {**TGI, "GET /info": {**pages.TGI["/info"], "model_id": "m", "model_pipeline_tag": "image-text-to-text"}}
    async with driven("tgi", {**sees, f"POST {CHAT}": text("a")}) as (provider, server):
        assert await answer_of(provider, ask(**picture())) == "a"
        assert server.last(CHAT)["messages"][0]["content"][1]["image_url"]["url"] == PICTURE


@pytest.mark.parametrize(("rendered", "can"), [("<s>q</s>The capital of", True), ("<s>q</s>The capital of</s>", False)])
async def test_tgi_begins_a_new_turn_without_a_word(rendered: str, can: bool) -> None:
    """Where its template alters the begun text it does: so it is asked first how that is rendered."""
    shown = {"tokenize_response": [], "templated_text": rendered}
    async with driven("tgi", {**TGI, "POST /chat_tokenize": shown, f"POST {CHAT}": text(" France")}) as (
        provider,
        server,
    ):
        if can:
            assert await answer_of(provider, ask(), resume="The capital of ") == "France"
            assert server.last(CHAT)["messages"][-1] == {"role": "assistant", "content": "The capital of"}
        else:
            with pytest.raises(BadRequest):
                await answer_of(provider, ask(), resume="The capital of ")
            assert CHAT not in [path for path, _ in server.asked]


# llama.cpp.


async def test_llama_cpp_continues_bare_text() -> None:
    """The answer is continued as a plain completion, since some versions repeat its start in chat."""
    answers: dict[str, Any] = {
        "POST /apply-template": {"prompt": "<s>q</s>The capital of"},
        "POST /v1/completions": sse(
            {"model": "m", "choices": [{"text": " France", "finish_reason": None}]},
            {"model": "m", "choices": [{"text": "", "finish_reason": "stop"}]},
            usage(1),
        ),
    }
    async with driven("llamacpp", answers) as (provider, server):
        request = ask(stop="x", seed=1, repetition_penalty=1.1, tool_choice="auto", max_tokens=3)
        deltas = [delta async for delta in provider.chat(request, "m", "The capital of ")]
    assert said(deltas)[0] == "France"
    assert deltas[-1].finish_reason == "stop"
    assert server.last("/apply-template")["messages"][-1] == {"role": "assistant", "content": "The capital of"}
    assert server.last("/v1/completions") == {
        "stop": "x",
        "seed": 1,
        "repeat_penalty": 1.1,
        "max_tokens": 3,
        "model": "m",
        "prompt": "<s>q</s>The capital of",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_template_that_closes_the_turn() -> None:
    """What cannot be continued is refused, and no answer is begun anew in its place."""
    async with driven("llamacpp", {"POST /apply-template": {"prompt": "q The capital of</s>"}}) as (provider, server):
        with pytest.raises(BadRequest):
            await answer_of(provider, ask(), resume="The capital of")
        assert server.asked[-1][0] == "/apply-template"


async def test_llama_cpps_refusals() -> None:
    """A model without eyes is a failure of the server to llama.cpp, and a bad request to us."""
    with pytest.raises(BadRequest) as raised:
        await asked(
            "llamacpp",
            Reply({"error": {"code": 500, "message": "image input is not supported - hint"}}, 500),
            **picture(),
        )
    assert not raised.value.retryable


async def test_a_json_object_needs_a_schema_there() -> None:
    """Without one, llama.cpp makes nothing of `json_object`."""
    _, body = await asked("llamacpp", text("{}"), response_format={"type": "json_object"})
    assert body["response_format"] == {"type": "json_object", "schema": {"type": "object"}}


# Ollama, continuing.


@pytest.mark.parametrize(
    ("shown", "can"),
    [
        ({"_debug_info": {"rendered_template": "user: q assistant: The capital of"}}, True),
        ({"_debug_info": {"rendered_template": "user: q assistant: The capital of<|end|>"}}, False),
        ({"model": "m", "message": {"content": "x"}, "done": True}, False),
    ],
)
async def test_ollama_continues_by_its_template(shown: dict[str, Any], can: bool) -> None:
    """Templates may close the turn: it is asked once a model how it renders, and old versions do not tell."""

    def answer(question: Any) -> Reply:
        return ndjson(line("The capital"), line(" of France", done=True)) if question["stream"] else Reply(shown)

    async with driven("ollama", {"POST /api/chat": answer}) as (provider, server):
        for _ in range(2):
            if can:
                assert await answer_of(provider, ask(), resume="The capital of ") == "France"
            else:
                with pytest.raises(BadRequest):
                    await answer_of(provider, ask(), resume="The capital of ")
        questions = [body for _, body in server.asked if not body["stream"]]
        assert (len(questions), len(server.asked) - len(questions)) == (1, 2 if can else 0)
        assert (questions[0]["_debug_render_only"], questions[0]["options"]) == (True, {"num_predict": 1})


@pytest.mark.parametrize("name", ["vllm", "lmstudio", "llamacpp"])
async def test_a_form_is_not_continued(name: str) -> None:
    """A grammar would begin anew behind the begun text."""
    with pytest.raises(BadRequest, match="response_format"):
        await asked(name, text("a"), resume="{", response_format=SCHEMA)


async def test_an_answer_the_agent_began() -> None:
    """There is one last message: what the agent began, and behind it what came."""
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Sure: "}]
    deltas, body = await asked(
        "lmstudio", text("Sure: the ", "capital of France"), messages=messages, resume="the capital of "
    )
    assert body["messages"][1:] == [{"role": "assistant", "content": "Sure: the capital of"}]
    assert said(deltas)[0] == "France"


async def test_a_dialect_that_cannot_continue() -> None:
    """OpenAI's has no word for it."""
    with pytest.raises(BadRequest, match="openai"):
        await asked("openai", text("a"), resume="x")


async def test_text_is_no_format() -> None:
    """TGI does not know the type `text`; of a JSON object without a schema it can make nothing."""
    assert "response_format" not in (await asked("tgi", text("a"), response_format={"type": "text"}))[1]
    with pytest.raises(BadRequest, match="response_format"):
        await asked("tgi", text("a"), response_format={"type": "json_object"})
