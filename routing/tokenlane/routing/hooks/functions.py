"""The functions that may be hooks: their types, checks of a given function, and the error when one fails."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeAlias

from typing_extensions import TypeIs

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import HookFailed
from tokenlane.routing.contract.requests import ChatRequest

StreamHook: TypeAlias = Callable[[AsyncIterator[TokenDelta]], AsyncIterator[TokenDelta]]
"""An async generator function, called once for each answer: it reads the deltas and yields those to deliver."""
DeltaHook: TypeAlias = Callable[[TokenDelta], TokenDelta | Iterable[TokenDelta] | None]
"""A plain function, called with each delta: it returns what to deliver in its place, and None to drop it."""
TokenHook: TypeAlias = StreamHook | DeltaHook
RequestHook: TypeAlias = Callable[[ChatRequest], ChatRequest | Awaitable[ChatRequest]]
"""A plain or async function: it returns the request that takes the place of the given one."""

PATIENCE_S = 30.0
"""How long a hook may take for a step: a request hook for its request, a token hook until it reads or yields again."""


@dataclass(frozen=True)
class Hooks:
    """The hooks of a worker or a client.

    Raises:
        TypeError: a hook is not a function of its kind.
    """

    token: TokenHook | None = None
    request: RequestHook | None = None

    def __post_init__(self) -> None:
        for kind, hook in {"token hook": self.token, "request hook": self.request}.items():
            if hook is not None and (wrong := _wrong_with(hook, kind)):
                raise TypeError(f"the {kind} {wrong}")


NO_HOOKS = Hooks()


def reads_stream(hook: TokenHook) -> TypeIs[StreamHook]:
    """Whether a token hook takes the whole stream, and not one delta at a time."""
    return inspect.isasyncgenfunction(_function(hook))


def name_of(hook: Callable[..., object]) -> str:
    """The hook's name for messages, as `module:function`."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    named = hook if inspect.isroutine(hook) else type(hook)
    return f"{named.__module__}:{named.__qualname__}"


def hook_error(hook: Callable[..., object], kind: str, error: BaseException) -> HookFailed:
    """The error for a hook that raised. It names the exception's type and its place in the file of the hook, and not
    its text, which may quote a prompt or an answer."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration | StopAsyncIteration):
        error = error.__cause__  # which Python does not let out of a generator or a coroutine
    file = getattr(getattr(_function(hook), "__code__", None), "co_filename", "")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" in line {lines[-1]} of {PurePath(file).name}" if lines else ""
    return HookFailed(f"The {kind} {name_of(hook)!r} raised {type(error).__name__}{place}.")


def _wrong_with(hook: object, kind: str) -> str:
    """What is wrong with a hook, as the end of a sentence; empty if nothing is."""
    if not callable(hook):
        return f"is of type {type(hook).__name__}: give a function"
    if isinstance(hook, type):
        return f"is the class {hook.__name__!r}: give a function, or an instance that can be called"
    function = _function(hook)
    if kind == "token hook" and inspect.iscoroutinefunction(function):
        return f"{name_of(hook)!r} is a coroutine function: have it yield deltas, or make it a plain function"
    if kind == "request hook" and (inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)):
        return f"{name_of(hook)!r} is a generator function: have it return the request"
    return ""


def _function(hook: object) -> object:
    """The function that runs when a hook is called, behind wrappers made by `functools`."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    if not inspect.isroutine(hook):
        hook = inspect.getattr_static(type(hook), "__call__", hook)
    return inspect.unwrap(hook) if callable(hook) else hook
