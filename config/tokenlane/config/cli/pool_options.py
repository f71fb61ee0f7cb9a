"""The options `--redis` and `--pool`, which name the pool of a verb."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

RedisUrl: TypeAlias = Annotated[str | None, typer.Option(help="The pool's Redis URL.")]
PoolName: TypeAlias = Annotated[str | None, typer.Option(help="The pool's name.")]
