"""`tokenlane config` shows the settings in force and their sources; `config init` writes an llm.toml to start from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from tokenlane.config.cli import output
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.paths import DASH
from tokenlane.config.settings.environment import PREFIX, SECRETS, secret_in, unknown_variables
from tokenlane.config.settings.load import NoPool, find_pool, keys_from_environment, lane_options, read
from tokenlane.config.settings.merged import Setting, Settings
from tokenlane.config.settings.values import masked_url

config = typer.Typer(add_completion=False, invoke_without_command=True, pretty_exceptions_enable=False)


class _Row(NamedTuple):
    key: str
    value: object
    source: str


@config.callback()
def show(
    context: typer.Context,
    lane: Annotated[str | None, typer.Option(help="Show only this lane of llm.toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the settings in force and where each comes from. Secrets are hidden."""
    if context.invoked_subcommand is not None:
        return
    settings = read(lane_options(lane=lane))
    keys_from_environment()  # raises an error if they are malformed
    rows = list(_rows(settings))
    unknown = unknown_variables(settings)
    if as_json:
        file = str(settings.file) if settings.file else None
        output.show_json({"file": file, "settings": [row._asdict() for row in rows], "unknown": list(unknown)})
        return
    cells = [(row.key, _text(row.value), row.source) for row in rows]
    styles = {row.source: "dim" if row.source.startswith("default") else "green" for row in rows}
    file = str(settings.file or "none (`tokenlane config init` writes an llm.toml)")
    output.show(
        f"file: {file}",
        output.Table(("setting", "value", "source"), cells, styles),
        *(f"unknown variable: {variable}.{near}" for variable, near in unknown.items()),
    )


@config.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write; `-` writes to standard output.")] = Path("llm.toml"),
) -> None:
    """Write an llm.toml that explains every setting and sets none. Existing files are not overwritten."""
    template = resources.files("tokenlane.config").joinpath("llm.toml").read_text(encoding="utf-8")
    if path == DASH:
        typer.echo(template, nl=False)
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(template)
                file.flush()
            except OSError:  # do not leave a half-written file
                path.unlink()
                raise
    except FileExistsError:
        raise ConfigError(f"{path} already exists: remove it, or write to another file.") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}. Write to another file, or use - to print it."
        ) from None
    typer.echo(f"wrote {path}; `tokenlane config` shows the settings in force")


def _rows(settings: Settings) -> Iterator[_Row]:
    url = settings.get("redis", "url")
    if url.value is None:
        try:
            url = Setting(find_pool().url, "the running `tokenlane up`")
        except NoPool:
            url = Setting(None, "default (your `tokenlane up`, which is not running)")
    yield _row("redis.url", url)
    yield _row("redis.pool", settings.get("redis", "pool", default="main"))
    yield _row("redis.key_file", settings.get("redis", "key_file"))
    for name in settings.lanes_served():
        for key, setting in settings.lane(name).items():
            yield _row(f"lanes.{name}.{key}", setting)
    for path, setting in settings.leaves.items():
        if path[0] not in ("redis", "lanes") and setting.value != {}:
            yield _row(".".join(map(str, path)), setting)
    for secret in SECRETS:
        if secret_in(PREFIX + secret):
            yield _Row(PREFIX + secret, "***", "environment")


def _row(key: str, setting: Setting) -> _Row:
    value = setting.value
    return _Row(key, masked_url(value) if isinstance(value, str) and "://" in value else value, setting.source)


def _text(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
