"""A rehearsal: what a server would refuse of all that scripts and workers do, found out before they do it."""

from __future__ import annotations

import secrets

from tokenlane.routing.contract.errors import LlmError

from .pool import Pool
from .replies.values import as_list, as_text


async def rehearse(pool: Pool) -> tuple[str, ...]:
    """Try everything that scripts and workers do, in a way that leaves nothing behind: what the server refuses.

    Raises:
        LlmError: it refuses scripts altogether, or does not answer.
    """
    name = secrets.token_hex(8)
    key = pool.keys.rehearsal(name)
    failed = as_list(await pool.scripts.run("rehearse", name, pool.keys.hub(name)))
    said = [as_text(error) for _, error in map(as_list, failed)]
    problems = [pool.server.refusal(text).message for text in said]
    for command in (("PSETEX", key, 1000, "1"), ("MGET", key), ("DEL", key), ("ZRANGE", key, 0, -1)):
        try:
            await pool.scripts.ask(*command)
        except LlmError as error:
            problems.append(error.message)
    return tuple(dict.fromkeys(problems))
