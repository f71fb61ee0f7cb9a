"""Tries every Redis command that scripts and workers use, and reports which of them the server refuses."""

from __future__ import annotations

import secrets

from tokenlane.routing.contract.errors import LlmError

from .pool import Pool
from .replies.values import as_list, as_text


async def rehearse(pool: Pool) -> tuple[str, ...]:
    """Try all commands on a temporary key. Return the message of each refusal; none if the server accepts all commands.

    Raises:
        LlmError: the server refuses to run scripts, or does not answer.
    """
    name = secrets.token_hex(8)
    key = pool.keys.rehearsal(name)
    failed = as_list(await pool.scripts.run("rehearse", name, pool.keys.hub(name)))
    replies = (map(as_text, as_list(reply)) for reply in failed)
    problems = [pool.server.error_from_reply(error, command).message for command, error in replies]
    for command in (("PSETEX", key, 1000, "1"), ("MGET", key), ("DEL", key), ("ZRANGE", key, 0, -1)):
        try:
            await pool.scripts.ask(*command)
        except LlmError as error:
            problems.append(error.message)
    return tuple(dict.fromkeys(problems))
