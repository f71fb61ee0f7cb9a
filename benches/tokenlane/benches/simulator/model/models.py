"""The models of a simulated server: in the registry, on disk and in memory."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tokenlane.benches.simulator.condition import Condition

from .refusals import Refused

_UNITS = {"": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?b)?", re.IGNORECASE)
_ABILITIES = (("embeds", "embed"), ("thinks", "think"), ("sees", "vision"), ("shortens", "matryoshka"))
PULL_STEPS = 12
"""The number of pieces in which a pull arrives. The layers take turns."""


def parse_bytes(text: str) -> int:
    """Return a size such as `4GB` in bytes.

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size: write it as in 400MB or 4GB.")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


@dataclass(frozen=True)
class Model:
    """A model.

    An ability that is not set depends on the name: a model with `embed` in its name makes embeddings, `think` stands
    for reasoning, `vision` for images, and `matryoshka` for embeddings that can be shortened.
    """

    name: str
    size_bytes: int = 1_000_000_000
    context_length: int = 32_768
    dimensions: int = 64
    """The length of the embeddings."""
    embeds: bool | None = None
    """Whether the model makes embeddings instead of chatting."""
    thinks: bool | None = None
    sees: bool | None = None
    shortens: bool | None = None
    """Whether the model's embeddings may be cut to the requested `dimensions`."""
    corrupt: bool = False
    """Whether the files of a pull have a wrong hash."""
    digest: str = ""
    """SHA-256 in hexadecimal; derived from the name if empty."""

    def __post_init__(self) -> None:
        name = self.name.lower()
        for ability, word in _ABILITIES:
            if getattr(self, ability) is None:
                object.__setattr__(self, ability, word in name)
        if not self.digest:
            object.__setattr__(self, "digest", hashlib.sha256(self.name.encode()).hexdigest())

    @classmethod
    def parse(cls, text: str) -> Model:
        """Read a model from `NAME` or `NAME=SIZE`.

        Raises:
            ValueError: the name is missing, or the size is not one.
        """
        name, given, size = text.strip().partition("=")
        if not name.strip():
            raise ValueError("a model needs a name: write NAME or NAME=SIZE.")
        return cls(name.strip(), parse_bytes(size)) if given else cls(name.strip())

    @property
    def layers(self) -> list[tuple[str, int]]:
        """The digest and size of each layer: weights, template, configuration."""
        small = min(1000, self.size_bytes // 4)
        sizes = [self.size_bytes - small * 2, small, small]
        return [(hashlib.sha256(f"{self.digest}{n}".encode()).hexdigest(), size) for n, size in enumerate(sizes)]


@dataclass
class Instance:
    """A model in memory."""

    id: str
    model: Model
    context_length: int
    expires_at: float | None = None
    """When the model is unloaded, in seconds of `time.time`; None: never."""
    users: int = 0
    leaving: bool = False
    """Whether the model will be unloaded once no request uses it."""
    used_at: float = field(default_factory=time.monotonic)
    on_demand: bool = False
    """Whether a request for an answer loaded the model, rather than a command to load it."""


@dataclass
class Download:
    """The progress of a pull. The next pull of the same model continues an interrupted one."""

    model: Model
    steps: int = 0

    @property
    def complete(self) -> bool:
        """Whether all pieces have arrived."""
        return self.steps >= PULL_STEPS

    def completed(self) -> list[int]:
        """Return the bytes received of each layer. The layers take turns."""
        layers = self.model.layers
        turns, extra = divmod(self.steps, len(layers))
        last = PULL_STEPS // len(layers)
        return [size * (turns + (place < extra)) // last for place, (_, size) in enumerate(layers)]

    def step(self) -> int:
        """Receive another piece, and return the index of its layer."""
        layer = self.steps % len(self.model.layers)
        self.steps += 1
        return layer

    @property
    def left(self) -> int:
        """The number of missing pieces."""
        return max(PULL_STEPS - self.steps, 0)


class SimulatedModels:
    """The models of a simulated server.

    Args:
        on_disk: the models that the server can load.
        pullable: more models that the server can pull.
        memory_bytes: how many bytes of models fit in memory at once; None: no limit.
        most: how many models fit in memory at once, whatever their size; None: no limit.
        load_s: how long loading a model takes.
        exact: whether names must match exactly. Otherwise case is ignored, and a name without a tag means `latest`.
    """

    def __init__(
        self,
        on_disk: Iterable[Model],
        pullable: Iterable[Model] = (),
        *,
        memory_bytes: int | None = None,
        most: int | None = None,
        load_s: float = 0,
        exact: bool = True,
    ) -> None:
        self.memory_bytes, self.most, self.load_s, self._exact = memory_bytes, most, load_s, exact
        self.on_disk = self._by_name(on_disk)
        self.registry = {**self.on_disk, **self._by_name(pullable)}
        self.downloads: dict[str, Download] = {}
        self._instances: dict[str, Instance] = {}
        self._coming: tuple[Model, ...] = ()
        """The models that are being loaded, which already take memory."""
        self._loading: dict[str, asyncio.Task[Instance]] = {}
        self._freed = Condition()

    def _by_name(self, models: Iterable[Model]) -> dict[str, Model]:
        named = [model if self._exact else replace(model, name=_with_tag(model.name)) for model in models]
        return {model.name: model for model in named}

    def find(self, name: str) -> Model | None:
        """Return the model with this name on disk, or None."""
        return self._named(self.on_disk, name)

    def in_registry(self, name: str) -> Model | None:
        """Return the model with this name in the registry; None if no model with this name can be pulled."""
        return self._named(self.registry, name)

    def _named(self, models: dict[str, Model], name: str) -> Model | None:
        if self._exact:
            return models.get(name)
        wanted = _tagged(name)
        return next((model for model in models.values() if _tagged(model.name) == wanted), None)

    def loaded(self) -> list[Instance]:
        """Unload expired models, and return the others in memory, oldest first."""
        now = time.time()
        for instance in list(self._instances.values()):
            expired = instance.expires_at is not None and instance.expires_at <= now
            if not instance.users and (expired or instance.leaving):
                del self._instances[instance.id]
        return list(self._instances.values())

    def instance(self, instance_id: str) -> Instance | None:
        """Return the instance with this id, or None."""
        return next((instance for instance in self.loaded() if instance.id == instance_id), None)

    def instances_of(self, model: Model) -> list[Instance]:
        """Return all instances with the content of this model, whatever the name."""
        staying = (instance for instance in self.loaded() if not instance.leaving)
        return [instance for instance in staying if instance.model.digest == model.digest]

    def put(self, model: Model, context_length: int | None = None) -> Instance:
        """Load a model at once, without checking memory, as when a server starts."""
        known = {instance.id for instance in self.loaded()}
        name, number = model.name, 1
        while name in known:
            number += 1
            name = f"{model.name}:{number}"
        instance = Instance(name, model, context_length or model.context_length)
        self._instances[name] = instance
        return instance

    async def load(self, model: Model, context_length: int | None = None, *, another: bool = False) -> Instance:
        """Return an instance of the model, and load the model if necessary. Concurrent calls share one load.

        Args:
            another: load another instance, even if there is one.

        Raises:
            Refused: the model needs more memory than the server has.
        """
        if another:
            return await self._load(model, context_length)
        if present := self.instances_of(model):
            return present[0]
        task = self._loading.get(model.digest)
        if task is None or task.done():
            task = asyncio.create_task(self._load(model, context_length))
            self._loading[model.digest] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Cancel all loads in progress."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)

    async def _load(self, model: Model, context_length: int | None) -> Instance:
        if self.memory_bytes is not None and model.size_bytes > self.memory_bytes:
            raise Refused(
                "load_failed",
                f"model requires more system memory ({model.size_bytes / 1e9:.1f} GB) than is available "
                f"({self.memory_bytes / 1e9:.1f} GB)",
                model=model.name,
            )
        await self._freed.wait_for(lambda: self._make_room(model))
        self._coming += (model,)
        try:
            await asyncio.sleep(self.load_s)
        finally:
            self._coming = tuple(other for other in self._coming if other is not model)
        return self.put(model, context_length)

    def _make_room(self, model: Model) -> bool:
        """Unload idle models, the least recently used first, and return whether the model now fits."""
        while not self._fits(model):
            idle = [instance for instance in self.loaded() if not instance.users]
            if not idle:
                return False
            del self._instances[min(idle, key=lambda instance: instance.used_at).id]
        return True

    def _fits(self, model: Model) -> bool:
        models = [*(instance.model for instance in self.loaded()), *self._coming]
        taken = sum(other.size_bytes for other in models) + model.size_bytes
        return (self.memory_bytes is None or taken <= self.memory_bytes) and (
            self.most is None or len(models) < self.most
        )

    def unload(self, instance: Instance) -> None:
        """Unload an instance once no request uses it."""
        instance.leaving = True
        self.loaded()
        self._freed.notify()

    @contextmanager
    def using(self, instance: Instance) -> Iterator[None]:
        """Keep an instance in memory while the block runs."""
        instance.users += 1
        try:
            yield
        finally:
            instance.users -= 1
            instance.used_at = time.monotonic()
            self.loaded()
            self._freed.notify()

    def download(self, name: str) -> Download | None:
        """Begin or continue a pull; None if the registry has no model with this name."""
        model = self.in_registry(name)
        if model is None:
            return None
        present = self.on_disk.get(model.name)
        if present is not None and present.digest == model.digest:
            return Download(model, PULL_STEPS)
        return self.downloads.setdefault(model.name, Download(model))

    def finish_download(self, download: Download, *, corrupt: bool = False) -> bool:
        """Finish a pull. Return whether the hash was right, and so whether the model is now on disk."""
        self.downloads.pop(download.model.name, None)
        if corrupt or download.model.corrupt:
            return False
        self.on_disk[download.model.name] = download.model
        return True

    def delete(self, model: Model) -> None:
        """Remove a model from disk. If no other name has the same content, unload it too."""
        del self.on_disk[model.name]
        if any(other.digest == model.digest for other in self.on_disk.values()):
            return
        for instance in self.instances_of(model):
            self.unload(instance)


def _tagged(name: str) -> str:
    """Return the name in lower case and with a tag, which is how Ollama compares names."""
    return _with_tag(name.lower())


def _with_tag(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
