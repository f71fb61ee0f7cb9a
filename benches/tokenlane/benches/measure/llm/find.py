"""Finds the models to measure: of the model servers that options or settings name, and of those on the usual ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tokenlane.config.settings.values import LaneSettings, masked_url
from tokenlane.routing.decide.candidates import served_name
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.server import needs_builtin_server
from tokenlane.worker.discovery.model_servers import ModelServer, probe_targets
from tokenlane.worker.discovery.targets import Target, usual_targets
from tokenlane.worker.providers.server_names import lists_all_models


@dataclass(frozen=True)
class Subject:
    """A model on a model server, to measure.

    Args:
        lane: the settings with which tokenlane asks the server.
        provider: the provider that the lane names or the server showed; empty if neither is known.
        model: the name of the model; empty if it is not known.
        problem: why it cannot be measured; empty if it can.
    """

    lane: LaneSettings
    provider: str
    model: str = ""
    problem: str = ""

    @property
    def endpoint(self) -> str:
        """The server's URL without a password; empty for a server that the measurement starts."""
        return masked_url(self.lane.endpoint or "")


def builtin_subject(lane: LaneSettings) -> Subject:
    """The built-in model, whose server the measurement starts."""
    assert needs_builtin_server(lane)
    return Subject(lane, lane.provider, MODEL_NAME)


async def find_subjects(
    targets: Sequence[Target], models: Sequence[str], progress: Callable[[str], None]
) -> list[Subject]:
    """Probe all targets at once, and return the models to measure of each.

    A target that cannot be used is a subject with a problem. On the usual ports only servers that can be used count.

    Args:
        models: measure these models of each server. If there are none, the configured models of each server count, and
            of a server without configured models the first that it lists.
        progress: called with a line about each server on a usual port that is left out.
    """
    usual = usual_targets()
    probed = [Target(replace(each.lane, models=()), each.provider, each not in usual) for each in targets]
    subjects: list[Subject] = []
    for target, server in zip(targets, await probe_targets(probed), strict=True):
        found = list(_subjects(server, models or target.lane.models))
        if target in usual:
            if server.provider is not None:
                for subject in found:
                    if subject.problem:
                        progress(f"{subject.endpoint} is left out: {subject.problem}")
            found = [subject for subject in found if not subject.problem]
        subjects += found
    return subjects


def _subjects(server: ModelServer, models: Sequence[str]) -> Iterator[Subject]:
    provider = server.provider or ""
    if server.problem is not None:
        yield Subject(server.lane, provider, models[0] if models else "", server.problem.observed)
        return
    for model in models or server.models[:1]:
        served = served_name(model, server.models)
        if served is None and lists_all_models(provider):
            yield Subject(server.lane, provider, model, "the server does not have this model")
        else:
            yield Subject(server.lane, provider, served or model)
