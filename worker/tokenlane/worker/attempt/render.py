"""Changes the prompt of a chat with the prompt plugin that the policy has for its role."""

from __future__ import annotations

from tokenlane.routing.contract.errors import PluginFailed
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.worker.hooks.prompt_plugins import PluginMissing
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run


async def render(lane: Lane, run: Run, request: ChatRequest) -> ChatRequest:
    """Return the request with the plugin's texts. An attempt that continues an answer gets the prompt of the first
    attempt.

    Raises:
        PluginMissing: this worker does not have the plugin, even if a failure of the plugin would not matter: else
            the prompt would depend on the lane.
        PluginFailed: the plugin failed, and the policy says that the request then fails.
    """
    prompt = run.claim.prompt
    if prompt is None:
        return request
    try:
        return await lane.plugins.render(prompt.plugin, request, run.claim.model)
    except PluginMissing:
        raise
    except Exception as error:
        failed = error if isinstance(error, PluginFailed) else _own_bug(lane, prompt.plugin, error)
        if prompt.on_error == "fail":
            raise failed from None
        lane.plugins.warn(failed, request.role)
        return request


def _own_bug(lane: Lane, plugin: str, error: Exception) -> PluginFailed:
    """Record an exception that is no failure of the plugin. Its text may quote a prompt."""
    lane.pool.internal_errors.record("prompt plugins", error)
    kind = type(error).__name__
    return PluginFailed(
        f"Prompt plugin {plugin} could not be called: the worker raised {kind}, and its log says where."
    )
