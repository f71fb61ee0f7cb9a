"""The options by which a verb's caller names the pool."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

RedisUrl: TypeAlias = Annotated[str | None, typer.Option(help="The pool's Redis URL.")]
PoolName: TypeAlias = Annotated[str | None, typer.Option(help="The pool's name.")]
