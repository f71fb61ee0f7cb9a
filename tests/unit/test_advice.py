"""What is said to a request that no lane can serve."""

from __future__ import annotations

from tokenlane.routing.advice import nobody
from tokenlane.routing.errors import LlmError, ModelNotFound, ProviderDown
from tokenlane.routing.lanes import LaneView
from tokenlane.routing.messages import Needs
from tokenlane.routing.policy import Policy
from tokenlane.routing.queues import Queue

LANES = (
    LaneView("gpu0", "ollama", "http://gpu0", ("phi3:latest", "qwen3:8b"), 1, 0, 1, 0),
    LaneView("gpu1", "vllm", "http://gpu1", ("phi3",), 1, 0, 1, 0),
)


def said(model: str | None, provider: str | None) -> LlmError:
    """To a request with that wish."""
    return nobody(Queue("r", "chat", "normal", Needs(model=model, provider=provider)), Policy(), LANES)


def test_models_of_the_provider_that_is_asked_for() -> None:
    """Who asks one provider for a model that only another has is told that, and what this one has."""
    error = said("qwen3:8b", "vllm")
    assert isinstance(error, ModelNotFound)
    assert error.message == "no lane of provider 'vllm' serves this model; served are: phi3"
    anywhere = said("typo", None)
    assert anywhere.message == "no lane serves this model; served are: phi3, phi3:latest, qwen3:8b"


def test_a_provider_nobody_has() -> None:
    """A provider's name that no lane has is what is wrong, and not the role's route."""
    error = said("phi3", "vlm")
    assert isinstance(error, ProviderDown)
    assert not error.retryable
    assert error.message == "no lane has provider 'vlm'; connected lanes: gpu0 (ollama), gpu1 (vllm)"
