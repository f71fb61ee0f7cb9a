"""The options `--redis` and `--pool`, by which a verb selects its pool."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

RedisUrl: TypeAlias = Annotated[
    str | None, typer.Option(help="The URL of the pool's Redis server, such as redis://HOST:6379.")
]
PoolName: TypeAlias = Annotated[str | None, typer.Option(help="The pool's name.")]
