"""The shapes of answers that servers are known to send, and what each is read as: one table, for every reader.

What is plain is read. What is doubtful fails once, by a code that is not worth another try, and loses nothing silently.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["SHAPES", "Fails", "Shape", "Whole"]

Dialect = Literal["openai", "ollama"]
Calls = tuple[tuple[str, str, str], ...]
Logprobs = tuple[tuple[str, float, int], ...]


@dataclass(frozen=True)
class Whole:
    """An answer. `calls`: id, name, arguments. `usage`: prompt, completion, cached. `logprobs`: token, value, how many
    others."""

    text: str = ""
    reasoning: str = ""
    calls: Calls = ()
    finish: str = "stop"
    usage: tuple[int, int, int] = (0, 0, 0)
    logprobs: Logprobs = ()
    model: str = "m"


@dataclass(frozen=True)
class Fails:
    """An error. `says`: what its message names, a field or a type; `detail`: the server's words; `retryable`: the
    request is tried again."""

    code: str
    says: str = ""
    detail: str = ""
    retryable: bool = False
    after: str = ""
    """The text that came before."""


@dataclass(frozen=True)
class Shape:
    """One of them: who sends it, what it is, its bytes."""

    server: str
    what: str
    stream: bytes
    expected: Whole | Fails
    dialect: Dialect = "openai"
    asked: str = "m"
    logprobs: bool = False
    stops: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.server}: {self.what}"


UNREADABLE = "unreadable_answer"
BOM = b"\xef\xbb\xbf"
DONE = b"data: [DONE]\n\n"


def packed(value: object) -> bytes:
    return json.dumps(value).encode()


def event(value: object, name: str = "") -> bytes:
    data = value if isinstance(value, bytes) else packed(value)
    return (b"event: %b\n" % name.encode() if name else b"") + b"data: %b\n\n" % data


def chunk(
    delta: object = None, finish: str | None = None, *, choice: object = None, **more: object
) -> dict[str, object]:
    extra = choice if isinstance(choice, dict) else {}
    choices = [{"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish, **extra}]
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


def text(said: str, **more: object) -> dict[str, object]:
    return {**chunk({"content": said}, choice=more.pop("choice", None)), **more}


def end(finish: str = "stop", **more: object) -> dict[str, object]:
    return chunk({}, finish, **more)


def sse(*chunks: object, done: bool = True) -> bytes:
    """A stream; bytes go into it as they are."""
    return b"".join(each if isinstance(each, bytes) else event(each) for each in chunks) + (DONE if done else b"")


def said(*chunks: object) -> bytes:
    """A stream that says "One two", with this in the middle of it."""
    return sse(text("One"), *chunks, text(" two"), end())


def call(index: int | None, id: str | None, name: str | None, arguments: object, **more: object) -> dict[str, object]:
    """A chunk with a piece of a tool call; what is None is left out."""
    named = {"name": name, "arguments": arguments}
    piece: dict[str, object] = {"function": {key: value for key, value in named.items() if value is not None}, **more}
    piece |= {key: value for key, value in (("index", index), ("id", id)) if value is not None}
    return chunk({"tool_calls": [piece]})


def line(message: object = None, *, done: bool = False, **more: object) -> dict[str, object]:
    """A line of Ollama's."""
    told = {} if message is None else {"message": message}
    return {"model": "m", "created_at": "2026-01-01T00:00:00Z", **told, "done": done, **more}


def says(content: str, **more: object) -> dict[str, object]:
    return line({"role": "assistant", "content": content}, done=bool(more.pop("done", False)), **more)


def lines(*values: object) -> bytes:
    return b"".join(each if isinstance(each, bytes) else packed(each) + b"\n" for each in values)


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
COUNTS = (7, 3, 0)
HI, ONE_TWO = Whole("hi"), Whole("One two")
OSLO, BERN = '{"city": "Oslo"}', '{"city": "Bern"}'
TWO_CALLS = Whole(calls=(("a", "weather", OSLO), ("b", "time", BERN)), finish="tool_calls")
LONG = "This model's maximum context length is 64 tokens. However, your messages resulted in 99 tokens."
TOKEN = {"token": "hi", "logprob": -0.25, "bytes": [104, 105], "top_logprobs": [{"token": "ho", "logprob": -1.5}]}


def _framing() -> Iterator[Shape]:
    plain = said()
    yield Shape("OpenAI", "a stream as documented", plain, ONE_TWO)
    yield Shape("IIS, Spring", "lines that end in CR LF", plain.replace(b"\n", b"\r\n"), ONE_TWO)
    yield Shape("old proxies", "lines that end in CR", plain.replace(b"\n", b"\r"), ONE_TWO)
    yield Shape(".NET", "a byte order mark", BOM + plain, ONE_TWO)
    yield Shape("PHP", "blank lines before the stream", b"\n\n" + plain, ONE_TWO)
    yield Shape("TGI before 3", "no space behind the colon", plain.replace(b"data: ", b"data:"), ONE_TWO)
    yield Shape("several", "two spaces behind the colon", plain.replace(b"data: ", b"data:  "), ONE_TWO)
    yield Shape("OpenRouter", "comments", said(b": OPENROUTER PROCESSING\n\n", b":\n\n"), ONE_TWO)
    yield Shape("several", "ids and times to wait", said(b"id: 7\nretry: 3000\n\n"), ONE_TWO)
    yield Shape("several", "an event of several lines", said(b'data: {"choices":\ndata: []}\n\n'), ONE_TWO)
    yield Shape("several", "data that are empty", said(b"data:\n\n", b"data: \n\n"), ONE_TWO)
    yield Shape("gateways", "a ping that is no JSON", said(b"event: ping\ndata: ping\n\n"), ONE_TWO)
    yield Shape("gateways", "a ping that is JSON", said(event({"type": "ping"}, "ping")), ONE_TWO)
    yield Shape("gateways", "an event of an unknown name", said(event({"a": 1}, "metrics")), ONE_TWO)
    yield Shape(
        "several", "chunks with a name", said(event(text(" and a"), "completion.chunk")), Whole("One and a two")
    )
    yield Shape("several", "chunks named message", said(event(text(" and a"), "message")), Whole("One and a two"))
    yield Shape(
        "several", "an end with a name", sse(text("hi"), end(), b"event: done\ndata: [DONE]\n\n", done=False), HI
    )
    yield Shape("TGI before 2.2", "no [DONE]", sse(text("hi"), end(), done=False), HI)
    yield Shape("several", "no blank line at the end", sse(text("hi"), end(), done=False)[:-1], HI)
    yield Shape("several", "no end of a line at the end", sse(text("hi"), end(), done=False)[:-2], HI)
    yield Shape("several", "[DONE] with white space", sse(text("hi"), end(), b"data: [DONE] \n\n", done=False), HI)
    yield Shape("FastChat", "one chunk a line, without data:", lines(text("One"), text(" two"), end()), ONE_TWO)
    yield Shape("FastChat", "the same, and [DONE]", lines(text("One"), text(" two"), end(), b"[DONE]\n"), ONE_TWO)
    yield Shape(
        "proxies", "chunks without data: among others", said(packed(text(" and a")) + b"\n"), Whole("One and a two")
    )
    late = lines(text("One"), b'{"choices": [\n', end())
    yield Shape("FastChat", "a chunk a line, one of them cut", late, Fails(UNREADABLE, "not JSON", after="One"))
    first = lines(b'{"choices": [\n', text("One"), end())
    yield Shape("FastChat", "a chunk a line, the first of them cut", first, Fails(UNREADABLE, "not JSON"))
    yield Shape("a model server's proxy", "no stream at all", b"", Fails("interrupted", retryable=True))
    yield Shape(
        "a cut connection",
        "half an event",
        sse(text("One"), b'data: {"choi', done=False),
        Fails("interrupted", after="One"),
    )
    yield Shape("a cut connection", "half a page", b'{"choices": [{"mess', Fails("interrupted", retryable=True))
    html = b"<!DOCTYPE html>\n<html><title>502 Bad Gateway</title></html>\n"
    yield Shape("nginx", "a page of HTML", html, Fails(UNREADABLE, detail="Bad Gateway"))
    yield Shape("a web server", "words", b"Not what you wanted\n", Fails(UNREADABLE, detail="Not what"))
    yield Shape(
        "several", "data that are no JSON", said(b"data: ping\n\n"), Fails(UNREADABLE, "4 bytes", "ping", after="One")
    )
    yield Shape(
        "a Latin-1 server", "no UTF-8", said(event(b'{"choices": "\xe9"}')), Fails(UNREADABLE, "UTF-8", after="One")
    )
    yield Shape("several", "an event that is a number", said(event(7)), Fails(UNREADABLE, "a number", after="One"))
    yield Shape("several", "an event that is a list", said(event([1])), Fails(UNREADABLE, "a list", after="One"))
    halves = [event(b'{"choices":[{"delta":{"content":"%b"}}]}' % half) for half in (rb"a\ud83d", rb"\ude00b")]
    yield Shape("JavaScript gateways", "halves of a character", sse(*halves, end()), Whole("a😀b"))
    escape = event(b'{"choices":[{"delta":{"content":"%b"}}]}' % rb"\\ud83d \ud83d\ude00")
    yield Shape(
        "several", "a pair of escapes, and what looks like half of one", sse(escape, end()), Whole("\\ud83d 😀")
    )
    large = "x" * 300_000
    yield Shape("several", "a line of 300 kB", sse(text(large), end()), Whole(large))


def _pieces() -> Iterator[Shape]:
    role = chunk({"role": "assistant", "content": ""})
    yield Shape("OpenAI", "a chunk with the role alone", sse(role, text("hi"), end()), HI)
    yield Shape("OpenAI", "a role and null", sse(chunk({"role": "assistant", "content": None}), text("hi"), end()), HI)
    yield Shape(
        "LM Studio, TGI", "the role with each piece", sse(chunk({"role": "assistant", "content": "hi"}), end()), HI
    )
    nulls = {"role": None, "content": "hi", "reasoning_content": None, "tool_calls": None}
    yield Shape("SGLang", "nulls for what a piece has not", sse(chunk(nulls, usage=None), end()), HI)
    yield Shape(
        "Azure",
        "a chunk of filters without choices",
        sse({"choices": [], "prompt_filter_results": []}, text("hi"), end()),
        HI,
    )
    yield Shape("several", "no delta, a null for one", sse(chunk(choice={"delta": None}), text("hi"), end()), HI)
    yield Shape("vLLM", "text in the last chunk", sse(text("h"), chunk({"content": "i"}, "stop")), HI)
    yield Shape("SGLang", "empty pieces", sse(text(""), text("hi"), text(""), end()), HI)
    yield Shape(
        "llama.cpp",
        "progress of the prompt",
        sse(chunk(prompt_progress={"total": 9, "processed": 4}), text("hi"), end()),
        HI,
    )
    yield Shape("llama.cpp", "progress without choices", sse({"prompt_progress": {"total": 9}}, text("hi"), end()), HI)
    yield Shape(
        "OpenAI",
        "a refusal",
        sse(chunk({"refusal": "I'm sorry, "}), chunk({"refusal": "no."}), end()),
        Whole("I'm sorry, no."),
    )
    notes = {"annotations": [{"type": "url_citation"}], "citations": ["http://h"], "provider_specific_fields": {"a": 1}}
    yield Shape(
        "OpenRouter, Perplexity",
        "notes and unknown fields",
        sse(chunk({"content": "hi", **notes}), end(service_tier="x")),
        HI,
    )
    sound = sse(chunk({"audio": {"data": "AAAA"}}), end())
    yield Shape("OpenAI", "sound", sound, Fails(UNREADABLE, "audio"))
    yield Shape(
        "OpenRouter", "pictures", sse(chunk({"images": [{"image_url": {}}]}), end()), Fails(UNREADABLE, "images")
    )
    thought = Whole("It is 4.", "Two and two")
    for name in ("reasoning", "reasoning_content", "thinking"):
        yield Shape("DeepSeek, vLLM, others", name, sse(chunk({name: "Two and two"}), text("It is 4."), end()), thought)
    both = {
        "reasoning": "Two and two",
        "reasoning_content": "Two and two",
        "reasoning_details": [{"text": "Two and two"}],
    }
    yield Shape("OpenRouter", "reasoning three times over", sse(chunk(both), text("It is 4."), end()), thought)
    details = {"reasoning_details": [{"type": "reasoning.text", "text": "Two and two"}]}
    yield Shape("OpenRouter", "reasoning in details alone", sse(chunk(details), text("It is 4."), end()), thought)
    tagged = [text("<think"), text(">\nTwo and two</think>\n"), text("It is 4."), end()]
    yield Shape("LM Studio, TGI", "reasoning in tags", sse(*tagged), thought)
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "Two and two"}]}]
    parts = [chunk({"content": thinking}), chunk({"content": [{"type": "text", "text": "It is"}]}), text(" 4."), end()]
    yield Shape("Mistral", "content as parts", sse(*parts), thought)
    parts = [chunk({"content": [{"type": "thinking", "thinking": "Two and two"}]}), text("It is 4."), end()]
    yield Shape("Mistral's followers", "thinking as a string", sse(*parts), thought)
    parts = [chunk({"content": [{"type": "text", "text": "hi"}, {"type": "reference", "reference_ids": [1]}]}), end()]
    yield Shape("Mistral", "references among the parts", sse(*parts), HI)
    yield Shape("several", "content as one part", sse(chunk({"content": {"type": "text", "text": "hi"}}), end()), HI)
    parts = [chunk({"content": [{"type": "image_url", "image_url": {"url": "http://h"}}]}), end()]
    yield Shape("several", "a picture among the parts", sse(*parts), Fails(UNREADABLE, "image_url"))
    wrong = {"content": 3, "content[0]": ["a"], "tool_calls": 7, "tool_calls[0]": ["a"], "reasoning": {"a": 1}}
    for field, value in wrong.items():
        what = f"{field} is of another type"
        yield Shape(
            "nobody",
            what,
            sse(chunk({field.partition("[")[0]: value}), end()),
            Fails(UNREADABLE, field.partition("[")[0]),
        )
    yield Shape(
        "nobody",
        "choices is a number",
        said(event({"choices": 3})),
        Fails(UNREADABLE, "`choices` is a number", after="One"),
    )
    yield Shape(
        "nobody", "a choice is null", said(event({"choices": [None]})), Fails(UNREADABLE, "choices[0]", after="One")
    )
    several = [chunk({"content": "a"}), chunk({"content": "b"}, choice={"index": 1}), end()]
    yield Shape("OpenAI, n > 1", "a second choice", sse(*several), Fails(UNREADABLE, "choices", after="a"))
    one = [chunk({"content": "hi"}, choice={"index": 1}), chunk({}, "stop", choice={"index": 1})]
    yield Shape("several", "a choice that is numbered 1", sse(*one), HI)
    yield Shape("OpenAI", "bare text", sse({"choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}]}), HI)
    bare = {"choices": [{"delta": {"role": "assistant"}, "text": "hi", "finish_reason": "stop"}]}
    yield Shape("several", "bare text beside a role", sse(bare), HI)
    unnamed = [event(b'{"choices":[{"delta":{"content":"hi"}}]}'), event(b'{"choices":[{"finish_reason":"stop"}]}')]
    yield Shape("several", "nothing but what is needed", sse(*unnamed), HI)
    yield Shape(
        "several",
        "ids that change or are missing",
        sse({**text("h"), "id": "x"}, {**text("i"), "id": None, "created": 2}, end()),
        HI,
    )
    anthropic = event(
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}, "content_block_delta"
    )
    yield Shape("Anthropic", "its own events", anthropic, Fails("interrupted", retryable=True))
    responses = sse({"type": "response.output_text.delta", "delta": "hi"}, done=False)
    yield Shape("OpenAI", "events of its other API", responses, Fails(UNREADABLE, "`delta`, `type`"))
    native = sse({"index": 1, "token": {"text": "hi"}, "generated_text": None}, done=False)
    yield Shape("TGI", "events of its other API", native, Fails(UNREADABLE, "`token`"))


def _whole_messages() -> Iterator[Shape]:
    message = {"role": "assistant", "content": "It is 4.", "reasoning_content": "Two and two"}
    page: dict[str, object]
    page = {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    page["usage"] = USAGE
    whole = Whole("It is 4.", "Two and two", usage=COUNTS)
    yield Shape("a server that does not stream", "one page of JSON", packed(page), whole)
    yield Shape("the same", "one page on many lines", json.dumps(page, indent=2).encode() + b"\n", whole)
    yield Shape("the same", "with a byte order mark", BOM + packed(page), whole)
    yield Shape("several", "a whole message in an event", sse(page), whole)
    beside = {
        "choices": [{"delta": {"role": "assistant"}, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    yield Shape("several", "a whole message beside a role", sse(beside), whole)
    yield Shape(
        "MiniMax",
        "all of it again behind the pieces",
        sse(chunk({"reasoning_content": "Two and two"}), text("It is 4."), page),
        whole,
    )
    yield Shape(
        "several", "the rest of it behind a piece", sse(chunk({"reasoning_content": "Two and two"}), page), whole
    )
    yield Shape(
        "DashScope",
        "a message that grows",
        sse(chunk(choice={"delta": None, "message": {"content": "It"}}), page),
        Fails(UNREADABLE, "message", after="It"),
    )
    calls = [
        {"id": "a", "function": {"name": "weather", "arguments": OSLO}},
        {"id": "b", "function": {"name": "time", "arguments": BERN}},
    ]
    called = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]}
    yield Shape("a server that does not stream", "calls of tools", packed(called), TWO_CALLS)


def _tool_calls() -> Iterator[Shape]:
    def called(*chunks: object, finish: str = "tool_calls") -> bytes:
        return sse(*chunks, end(finish))

    pieces = [call(0, "a", "weather", ""), call(0, None, None, OSLO), call(1, "b", "time", BERN)]
    yield Shape("OpenAI", "calls by number", called(*pieces), TWO_CALLS)
    pieces = [
        call(0, "a", "weather", ""),
        call(0, None, None, OSLO),
        call(0, "b", "time", ""),
        call(0, None, None, BERN),
    ]
    yield Shape("vLLM, LMDeploy", "all numbered 0, in pieces", called(*pieces), TWO_CALLS)
    yield Shape(
        "Ollama's OpenAI door",
        "all numbered 0, whole",
        called(call(0, "a", "weather", OSLO), call(0, "b", "time", BERN)),
        TWO_CALLS,
    )
    yield Shape(
        "Gemini",
        "no numbers, ends as text",
        called(call(None, "a", "weather", OSLO), call(None, "b", "time", BERN), finish="stop"),
        TWO_CALLS,
    )
    two = chunk(
        {
            "tool_calls": [
                {"id": "a", "function": {"name": "weather", "arguments": OSLO}},
                {"id": "b", "function": {"name": "time", "arguments": BERN}},
            ]
        }
    )
    yield Shape("Gemini", "no numbers, one chunk", called(two), TWO_CALLS)
    signed = call(None, "a", "weather", OSLO, extra_content={"google": {"thought_signature": "x"}})
    yield Shape(
        "Gemini",
        "a signature, and a piece of it alone",
        called(signed, chunk({"extra_content": {}}), call(None, "b", "time", BERN)),
        TWO_CALLS,
    )
    yield Shape(
        "several", "numbers from 1", called(call(1, "a", "weather", OSLO), call(2, "b", "time", BERN)), TWO_CALLS
    )
    nulls = {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": OSLO}}
    yield Shape(
        "vLLM",
        "nulls in later pieces",
        called(call(0, "a", "weather", ""), chunk({"tool_calls": [nulls]}), call(1, "b", "time", BERN)),
        TWO_CALLS,
    )
    yield Shape(
        "SGLang",
        "an empty name in later pieces",
        called(call(0, "a", "weather", ""), call(0, "", "", OSLO), call(1, "b", "time", BERN)),
        TWO_CALLS,
    )
    parsed = Whole(calls=(("a", "weather", '{"city":"Oslo"}'),), finish="tool_calls")
    yield Shape("several", "arguments as an object", called(call(0, "a", "weather", {"city": "Oslo"})), parsed)
    yield Shape(
        "several",
        "the name behind the arguments",
        called(call(0, "a", None, OSLO), call(0, None, "weather", None), call(1, "b", "time", BERN)),
        TWO_CALLS,
    )
    numbered = Whole(calls=(("call_0", "weather", OSLO), ("call_1", "time", BERN)), finish="tool_calls")
    yield Shape("several", "no ids", called(call(0, None, "weather", OSLO), call(1, None, "time", BERN)), numbered)
    yield Shape(
        "several",
        "ids that are numbers",
        called(chunk({"tool_calls": [{"index": 0, "id": 7, "function": {"name": "f", "arguments": "{}"}}]})),
        Whole(calls=(("7", "f", "{}"),), finish="tool_calls"),
    )
    old = [
        chunk({"function_call": {"name": "weather", "arguments": ""}}),
        chunk({"function_call": {"arguments": OSLO}}),
    ]
    yield Shape(
        "OpenAI, 2023",
        "function_call",
        called(*old, finish="function_call"),
        Whole(calls=(("call_0", "weather", OSLO),), finish="tool_calls"),
    )
    short = sse(text("hi"), call(0, "a", None, ""), end("length"))
    yield Shape("several", "the limit before the name", short, Whole("hi", calls=(("a", "", ""),), finish="length"))
    yield Shape("several", "a call without a name", called(call(0, "a", None, OSLO)), Fails(UNREADABLE, "tool call"))
    custom = chunk({"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}]})
    yield Shape("OpenAI", "a call of a custom tool", called(custom), Fails(UNREADABLE, "custom"))
    yield Shape(
        "nobody",
        "a number that is a word",
        called(chunk({"tool_calls": [{"index": "a", "function": {"name": "f"}}]})),
        Fails(UNREADABLE, "index"),
    )
    beside = [text("hi"), call(0, "a", "weather", OSLO), call(1, "b", "time", BERN)]
    yield Shape(
        "several", "text beside calls", called(*beside), Whole("hi", calls=TWO_CALLS.calls, finish="tool_calls")
    )


def _ends() -> Iterator[Shape]:
    finishes = {
        "length": "length",
        "content_filter": "content_filter",
        "eos_token": "stop",
        "stop_sequence": "stop",
        "repetition": "stop",
        "model_length": "length",
        "STOP": "stop",
        "MAX_TOKENS": "length",
        "sensitive": "content_filter",
        "eos": "stop",
    }
    for finish, ours in finishes.items():
        yield Shape(
            "TGI, vLLM, Mistral, Gemini, others",
            f"the finish reason {finish}",
            sse(text("hi"), end(finish)),
            Whole("hi", finish=ours),
        )
    yield Shape("vLLM", "an answer that was aborted", sse(text("hi"), end("abort")), Fails("interrupted", after="hi"))
    yield Shape("vLLM", "an answer that was aborted at once", sse(end("abort")), Fails("interrupted", retryable=True))
    yield Shape(
        "DeepSeek", "no resources", sse(end("insufficient_system_resource")), Fails("interrupted", retryable=True)
    )
    yield Shape(
        "somebody", "an unknown end", sse(text("hi"), end("of_tomorrow")), Fails(UNREADABLE, "of_tomorrow", after="hi")
    )
    yield Shape(
        "somebody", "an end that is a sentence", sse(end("The prompt was PROMPT")), Fails(UNREADABLE, "finish reason")
    )
    yield Shape("several", "[DONE] without a finish reason", sse(text("hi")), Fails("interrupted", after="hi"))
    yield Shape("several", "[DONE] alone", sse(), Fails("interrupted", retryable=True))
    yield Shape("several", "[DONE] behind text that was held back", sse(text("<think")), Fails("interrupted"))
    yield Shape(
        "Gemini, older",
        "each chunk is the last",
        sse(chunk({"content": "One"}, "stop"), chunk({"content": " two"}, "stop")),
        ONE_TWO,
    )
    yield Shape("several", "an answer of nothing", sse(end()), Whole())


def _usages() -> Iterator[Shape]:
    counted = Whole("hi", usage=COUNTS)
    yield Shape(
        "OpenAI", "behind the end, without choices", sse(text("hi"), end(), {"choices": [], "usage": USAGE}), counted
    )
    yield Shape("Moonshot", "in the choice", sse(text("hi"), end(choice={"usage": USAGE})), counted)
    yield Shape("Mistral, DeepSeek", "in the last chunk", sse(text("hi"), end(usage=USAGE)), counted)
    yield Shape("several", "twice", sse(text("hi"), end(usage=USAGE), {"choices": [], "usage": USAGE}), counted)
    growing = {"prompt_tokens": 7, "completion_tokens": 1}
    yield Shape(
        "vLLM, SGLang",
        "with each chunk",
        sse(text("h", usage=growing), text("i", usage=growing), end(usage=USAGE)),
        counted,
    )
    yield Shape(
        "several",
        "and zeros at the end",
        sse(text("hi"), end(usage=USAGE), {"choices": [], "usage": {"prompt_tokens": 0}}),
        counted,
    )
    yield Shape(
        "TGI",
        "null with each chunk",
        sse(text("hi", usage=None), end(usage=None), {"choices": [], "usage": USAGE}),
        counted,
    )
    yield Shape("Groq", "in a field of its own", sse(text("hi"), end(x_groq={"id": "r", "usage": USAGE})), counted)
    yield Shape(
        "LM Studio's other API",
        "by other names",
        sse(text("hi"), end(usage={"input_tokens": 7, "output_tokens": 3})),
        counted,
    )
    timings = {"cache_n": 2, "prompt_n": 5, "predicted_n": 3, "prompt_ms": 1.5}
    yield Shape(
        "llama.cpp, older", "timings alone", sse(text("hi"), end(timings=timings)), Whole("hi", usage=(7, 3, 2))
    )
    yield Shape("llama.cpp", "timings beside", sse(text("hi"), end(timings=timings, usage=USAGE)), counted)
    cached = Whole("hi", usage=(7, 3, 2))
    details = {**USAGE, "prompt_tokens_details": {"cached_tokens": 2}}
    yield Shape("OpenAI", "with what was cached", sse(text("hi"), end(usage=details)), cached)
    yield Shape(
        "DeepSeek", "with what was cached", sse(text("hi"), end(usage={**USAGE, "prompt_cache_hit_tokens": 2})), cached
    )
    yield Shape("Moonshot", "with what was cached", sse(text("hi"), end(usage={**USAGE, "cached_tokens": 2})), cached)
    yield Shape(
        "several",
        "details that are null",
        sse(text("hi"), end(usage={**USAGE, "prompt_tokens_details": None})),
        counted,
    )
    unknown = {"prompt_tokens": -1, "completion_tokens": -1, "prompt_tokens_details": {"cached_tokens": -1}}
    yield Shape("several", "-1 for what is not known", sse(text("hi"), end(usage=unknown)), HI)
    yield Shape("several", "-1 after the counts", sse(text("hi", usage=USAGE), end(usage=unknown)), counted)
    minus = lines(says("hi"), line(done=True, prompt_eval_count=7, eval_count=-1))
    yield Shape("several", "-1 for one of them", minus, Whole("hi", usage=(7, 0, 0)), "ollama")
    broken = lines(says("hi"), line(done=True, prompt_eval_count=7.5, eval_count=3.0))
    yield Shape("several", "fractions of a token", broken, counted, "ollama")
    endless = sse(text("hi"), end(usage=USAGE)).replace(b'"prompt_tokens": 7', b'"prompt_tokens": 1e999')
    yield Shape("several", "a count beyond all numbers", endless, Whole("hi", usage=(0, 3, 0)))
    yield Shape(
        "nobody",
        "a word for a number",
        sse(text("hi"), end(usage={"prompt_tokens": "a"})),
        Fails(UNREADABLE, "usage.prompt_tokens", after="hi"),
    )


def _errors() -> Iterator[Shape]:
    wrong = {"message": LONG, "type": "invalid_request_error", "code": 400}
    too_long = Fails("context_too_long", "64", "99 tokens")
    yield Shape("OpenAI, vLLM", "an error, then [DONE]", sse({"error": wrong}), too_long)
    yield Shape("SGLang", "an error with object", sse({"error": {"object": "error", **wrong}}), too_long)
    yield Shape("vLLM, older", "an error without error", sse({"object": "error", **wrong}), too_long)
    yield Shape("LiteLLM", "a code that is a string", sse({"error": {**wrong, "code": "400", "type": None}}), too_long)
    yield Shape("a server that fails early", "a bare object", packed({"error": wrong}), too_long)
    yield Shape(
        "a server that fails early", "a bare object and the end of a line", packed({"error": wrong}) + b"\n", too_long
    )
    yield Shape(
        "a server that fails early",
        "a bare object on many lines",
        json.dumps({"error": wrong}, indent=1).encode(),
        too_long,
    )
    yield Shape("Gemini", "a list of one error", json.dumps([{"error": wrong}], indent=1).encode(), too_long)
    yield Shape(
        "a server that fails late",
        "a bare object behind events",
        sse(text("One"), packed({"error": wrong}), done=False),
        Fails("context_too_long", after="One"),
    )
    yield Shape(
        "LM Studio", "an event named error", event({"error": {"message": LONG}, "message": LONG}, "error"), too_long
    )
    yield Shape("several", "an event named error, no JSON", event(LONG.encode(), "error"), too_long)
    yield Shape("FastAPI", "a detail", sse({"detail": LONG}), too_long)
    yield Shape("TGI", "an error that is a string", sse({"error": LONG, "error_type": "validation"}), too_long)
    yield Shape(
        "OpenRouter",
        "an error beside a choice",
        sse(chunk({"content": ""}, "error", error={"code": 502, "message": "Provider returned error"})),
        Fails("provider_down", detail="Provider returned", retryable=True),
    )
    yield Shape(
        "OpenRouter",
        "an error in the choice",
        sse(text("One"), end("error", choice={"error": wrong})),
        Fails("context_too_long", after="One"),
    )
    types = {
        "invalid_request_error": "bad_request",
        "BadRequestError": "bad_request",
        "authentication_error": "unauthorized",
        "NotFoundError": "model_not_found",
        "content_filter": "bad_request",
    }
    for kind, code in types.items():
        yield Shape(
            "several",
            f"an error of type {kind}, no status",
            sse({"error": {"message": "no", "type": kind}}),
            Fails(code, detail='"no"'),
        )
    for kind, code in {"rate_limit_error": "rate_limited", "server_error": "provider_down"}.items():
        yield Shape(
            "several",
            f"an error of type {kind}, no status",
            sse({"error": {"message": "no", "type": kind}}),
            Fails(code, retryable=True),
        )
    quoting = {"error": {"message": "it says invalid_request_error", "type": "server_error"}}
    yield Shape("several", "an error that quotes a prompt", sse(quoting), Fails("provider_down", retryable=True))
    yield Shape(
        "TGI",
        "too many requests",
        sse({"error": {"message": "Model is overloaded", "http_status_code": 422}}),
        Fails("rate_limited", retryable=True),
    )
    yield Shape(
        "several",
        "an error that is null, false or empty",
        sse(text("hi", error=None), chunk(error=False), end(error={})),
        HI,
    )


def _models() -> Iterator[Shape]:
    same = {
        "m": ("m", "m@main", "m-2026-01-01", "m-0613", "owner/m", "M", "m:latest", "", None),
        "owner/m": ("m", "owner/m", "owner/m@rev", "m-2024-08-06"),
        "m:free": ("m",),
        "m-latest": ("m-2506", "m-latest"),
        "gemini-2.0-flash": ("models/gemini-2.0-flash",),
    }
    for asked, answers in same.items():
        for model in answers:
            shape = sse({**text("hi"), "model": model}, {**end(), "model": model})
            yield Shape(
                "several", f"{model!r} answers for {asked!r}", shape, Whole("hi", model=model or asked), asked=asked
            )
    others = {"m": ("n", "mm", "m-mini", "owner/n"), "owner/m": ("other/m",), "m:7b": ("m", "m:8b"), "m-1": ("m",)}
    for asked, answers in others.items():
        for model in answers:
            yield Shape(
                "several",
                f"{model!r} answers for {asked!r}",
                sse({**text("hi"), "model": model}, end()),
                Fails("model_not_found", detail=model),
                asked=asked,
            )
    yield Shape("nobody", "a model that is a number", sse({**text("hi"), "model": 7}), Fails(UNREADABLE, "model"))


def _logprobs() -> Iterator[Shape]:
    told = Whole("hi", logprobs=(("hi", -0.25, 1),))
    said = sse(text("hi", choice={"logprobs": {"content": [TOKEN]}}), end())
    yield Shape("OpenAI, vLLM, llama.cpp", "logprobs", said, told, logprobs=True)
    yield Shape("OpenAI, vLLM, llama.cpp", "logprobs nobody asked for", said, told)
    refusal = sse(chunk({"refusal": "hi"}, choice={"logprobs": {"content": None, "refusal": [TOKEN]}}), end())
    yield Shape("OpenAI", "logprobs of a refusal", refusal, told, logprobs=True)
    bare = {"tokens": ["hi"], "token_logprobs": [-0.25], "top_logprobs": [{"ho": -1.5}], "text_offset": [0]}
    old = sse({"choices": [{"index": 0, "text": "hi", "logprobs": bare, "finish_reason": "stop"}]})
    yield Shape("OpenAI", "logprobs of bare text", old, told, logprobs=True)
    held = [
        text("<think", choice={"logprobs": {"content": [TOKEN]}}),
        text("a", choice={"logprobs": {"content": [TOKEN]}}),
        end(),
    ]
    yield Shape(
        "several",
        "logprobs of text that was held back",
        sse(*held),
        Whole("<thinka", logprobs=told.logprobs * 2),
        logprobs=True,
    )
    never = event(
        b'{"choices":[{"delta":{"content":"hi"},"logprobs":{"content":[{"token":"hi","logprob":-Infinity}]}}]}'
    )
    yield Shape(
        "several", "an infinite logprob", sse(never, end()), Whole("hi", logprobs=(("hi", -9999, 0),)), logprobs=True
    )
    empty = sse(text("hi", choice={"logprobs": {"content": []}}), end())
    yield Shape("several", "an empty list", empty, HI)
    yield Shape(
        "LM Studio, others",
        "none, though asked for",
        sse(text("hi", choice={"logprobs": None}), end()),
        Fails("bad_request", "logprobs"),
        logprobs=True,
    )
    yield Shape(
        "several",
        "none, of a call",
        sse(call(0, "a", "weather", OSLO), end()),
        Whole(calls=TWO_CALLS.calls[:1], finish="tool_calls"),
        logprobs=True,
    )
    yield Shape(
        "nobody",
        "logprobs that are words",
        sse(text("hi", choice={"logprobs": {"content": ["a"]}}), end()),
        Fails(UNREADABLE),
        logprobs=True,
    )
    bad = event(b'{"choices":[{"delta":{"content":"hi"},"logprobs":NaN}]}')
    for what, stream in (
        ("token ids", sse(text("hi", choice={"logprobs": {"tokens": [7], "token_logprobs": [-0.25]}}), end())),
        ("of another length", sse(text("hi", choice={"logprobs": {"tokens": ["hi"], "token_logprobs": []}}), end())),
        ("true", sse(text("hi", choice={"logprobs": True}), end())),
        ("no number", bad + sse(end())),
        ("too large", sse(text("hi", choice={"logprobs": {"content": [{**TOKEN, "logprob": 10**400}]}}), end())),
    ):
        yield Shape("nobody", f"logprobs nobody asked for, {what}", stream, HI)
        yield Shape("nobody", f"logprobs, {what}", stream, Fails(UNREADABLE), logprobs=True)
    yield Shape(
        "nobody",
        "logprobs nobody asked for, words",
        lines(says("hi", logprobs=["hi"]), line(done=True)),
        HI,
        "ollama",
    )
    yield Shape(
        "nobody",
        "logprobs, words",
        lines(says("hi", logprobs=["hi"]), line(done=True)),
        Fails(UNREADABLE, "logprobs"),
        "ollama",
        logprobs=True,
    )
    ollama = says("hi", logprobs=[TOKEN])
    yield Shape("Ollama", "logprobs", lines(ollama, line(done=True)), told, "ollama", logprobs=True)
    yield Shape(
        "Ollama before 0.12.11",
        "none, though asked for",
        lines(says("hi"), line(done=True)),
        Fails("bad_request", "logprobs"),
        "ollama",
        logprobs=True,
    )


def _stops() -> Iterator[Shape]:
    counted = Whole("One", usage=COUNTS)
    yield Shape(
        "TGI",
        "the stop word at the end",
        sse(text("One"), text("END"), end("stop_sequence", usage=USAGE)),
        counted,
        stops=("END",),
    )
    yield Shape(
        "TGI",
        "the stop word in pieces",
        sse(text("OneE"), text("N"), text("D"), end(usage=USAGE)),
        counted,
        stops=("END",),
    )
    ignored = sse(text("One EN"), text("D, two"), text(" three"), end("length", usage=USAGE))
    yield Shape(
        "a server that ignores stop",
        "the stop word in the middle",
        ignored,
        Whole("One ", usage=COUNTS),
        stops=("END",),
    )
    uncounted = sse(text("One"), text("END"), text("two"), end("length"))
    yield Shape(
        "a server that ignores stop", "nothing counted", uncounted, Whole("One", usage=(0, 2, 0)), stops=("END",)
    )
    for what, after in {
        "an error": {"error": LONG},
        "no chunk": 7,
        "another model": {**text("a"), "model": "n"},
    }.items():
        late = sse(text("OneEND"), after, end("length"))
        yield Shape("several", f"{what} behind a stop word", late, Whole("One", usage=(0, 1, 0)), stops=("END",))
    yield Shape("several", "what begins like a stop word", sse(text("OneEN"), end()), Whole("OneEN"), stops=("END",))
    yield Shape(
        "several",
        "the stop word that ends first",
        sse(text("abc"), end()),
        Whole("a", usage=(0, 1, 0)),
        stops=("abc", "b"),
    )
    yield Shape(
        "several",
        "a stop word in the reasoning",
        sse(chunk({"reasoning": "END"}), text("hi"), end()),
        Whole("hi", "END"),
        stops=("END",),
    )
    yield Shape("several", "an empty stop word", said(), ONE_TWO, stops=("",))
    yield Shape(
        "Ollama's followers",
        "the stop word at the end",
        lines(says("One"), says("END"), line(done=True, eval_count=3)),
        Whole("One", usage=(0, 3, 0)),
        "ollama",
        stops=("END",),
    )


def _ollama() -> Iterator[Shape]:
    def shape(server: str, what: str, stream: bytes, expected: Whole | Fails, asked: str = "m") -> Shape:
        return Shape(server, what, stream, expected, "ollama", asked)

    counts = {"prompt_eval_count": 7, "eval_count": 3}
    two = Whole("One two", usage=COUNTS)
    plain = lines(says("One"), says(" two"), says("", done=True, done_reason="stop", **counts))
    yield shape("Ollama", "a stream as documented", plain, two)
    yield shape("Ollama", "lines that end in CR LF", plain.replace(b"\n", b"\r\n"), two)
    yield shape("Ollama", "a byte order mark", BOM + plain, two)
    yield shape("Ollama", "no end of the last line", plain[:-1], two)
    yield shape(
        "proxies", "the lines as events", b"".join(b"data: " + each + b"\n\n" for each in plain.splitlines()), two
    )
    yield shape(
        "proxies", "the lines as events, and [DONE]", sse(says("One"), says(" two"), says("", done=True, **counts)), two
    )
    yield shape(
        "Ollama's documentation",
        "a last line without message",
        lines(says("One"), says(" two"), line(done=True, **counts)),
        two,
    )
    yield shape("Ollama", "text in the last line", lines(says("One"), says(" two", done=True, **counts)), two)
    yield shape("Ollama", "no stream", packed(says("One two", done=True, **counts)), two)
    yield shape("Ollama", "counts of nothing left out", lines(says("hi", done=True)), HI)
    yield shape(
        "Ollama",
        "the end of its context",
        lines(says("hi", done=True, done_reason="length")),
        Whole("hi", finish="length"),
    )
    for reason in ("load", "unload"):
        yield shape(
            "Ollama", f"done_reason {reason}", lines(says("", done=True, done_reason=reason)), Fails(UNREADABLE, reason)
        )
    yield shape("Ollama", "an end without done", lines(says("hi")), Fails("interrupted", after="hi"))
    yield shape(
        "Ollama",
        "an error",
        lines({"error": "the prompt is longer than the context length"}),
        Fails("context_too_long", detail="longer than"),
    )
    yield shape(
        "Ollama",
        "an error behind text",
        lines(says("hi"), {"error": "runner died"}),
        Fails("provider_down", detail="runner died", after="hi"),
    )
    yield shape(
        "Ollama's followers",
        "an error that is an object",
        lines({"error": {"message": LONG, "code": 400}}),
        Fails("context_too_long", detail="99 tokens"),
    )
    yield shape("FastAPI", "a detail", lines({"detail": "Not Found"}), Fails("bad_request", detail="Not Found"))
    for name in ("thinking", "reasoning", "reasoning_content"):
        yield shape(
            "Ollama and followers",
            name,
            lines(line({"content": "", name: "hm"}), says("hi"), line(done=True)),
            Whole("hi", "hm"),
        )
    parts = line({"content": [{"type": "text", "text": "hi"}]})
    yield shape("Ollama's followers", "content as parts", lines(parts, line(done=True)), HI)
    yield shape("Ollama", "content that is null", lines(line({"content": None}), says("hi"), line(done=True)), HI)
    both = [
        {"function": {"index": 0, "name": name, "arguments": {"city": city}}}
        for name, city in (("weather", "Oslo"), ("time", "Bern"))
    ]
    called = Whole(
        calls=(("call_0", "weather", '{"city":"Oslo"}'), ("call_1", "time", '{"city":"Bern"}')), finish="tool_calls"
    )
    yield shape(
        "Ollama", "calls of one line", lines(line({"content": "", "tool_calls": both}), line(done=True)), called
    )
    apart = [line({"content": "", "tool_calls": [each]}) for each in both]
    yield shape("Ollama", "calls of two lines, both numbered 0", lines(*apart, line(done=True)), called)
    twice = Whole(calls=(*called.calls[:1], ("call_1", "weather", '{"city":"Oslo"}')), finish="tool_calls")
    yield shape("Ollama", "one call twice", lines(apart[0], apart[0], line(done=True)), twice)
    worded = line({"tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": OSLO}}]})
    yield shape(
        "Ollama's followers",
        "arguments as a string",
        lines(worded, line(done=True)),
        Whole(calls=TWO_CALLS.calls[:1], finish="tool_calls"),
    )
    bare = line({"tool_calls": [{"function": {"name": "f"}}]})
    yield shape(
        "Ollama",
        "a call without arguments",
        lines(bare, line(done=True)),
        Whole(calls=(("call_0", "f", "{}"),), finish="tool_calls"),
    )
    for asked, answers in {"m": ("M:latest", "m", ""), "m:latest": ("m",)}.items():
        for model in answers:
            yield shape(
                "Ollama",
                f"{model!r} answers for {asked!r}",
                lines({**says("hi", done=True), "model": model}),
                Whole("hi", model=asked),
                asked,
            )
    yield shape("Ollama", "another model", lines({**says("hi"), "model": "n"}), Fails("model_not_found", detail="'n'"))
    yield shape(
        "Ollama's other API",
        "a line with response",
        lines({"model": "m", "response": "hi", "done": False}),
        Fails(UNREADABLE, "`response`"),
    )
    yield shape("OpenAI", "its chunks", lines(text("hi"), end()), Fails(UNREADABLE, "`choices`"))
    yield shape("nobody", "content that is a number", lines(line({"content": 1})), Fails(UNREADABLE, "message.content"))
    yield shape("nobody", "a line that is a number", b"[7]\n", Fails(UNREADABLE, "a list"))
    yield shape("nginx", "a page of HTML", b"<html>502 Bad Gateway</html>\n", Fails(UNREADABLE, detail="Bad Gateway"))
    halves = [b'{"message":{"content":"%b"}}\n' % half for half in (rb"a\ud83d", rb"\ude00b")]
    yield shape("JavaScript gateways", "halves of a character", lines(*halves, line(done=True)), Whole("a😀b"))


SHAPES = [
    *(*_framing(), *_pieces(), *_whole_messages(), *_tool_calls(), *_ends(), *_usages(), *_errors(), *_models()),
    *(*_logprobs(), *_stops(), *_ollama()),
]
