"""A clock for the scripts that only tests move: no lease lapses and no key expires because a test takes long.

The server holds the time, in ms.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from tests.integration.life import CLOCK

from tokenlane.routing.store import scripts

# Redis expires keys by its own clock. So each time to live is a thousand times as long, and `pass_time` shortens it.
_STOPPED: Final = """
local server, SLOWER = redis, 1000
local function now() return tonumber(server.call('GET', 'clock')) end
local function expire(key, ms) return server.call('PEXPIRE', key, string.format('%.0f', ms * SLOWER)) end
local redis = { pcall = server.pcall }
function redis.call(command, ...)
  local args = { ... }
  if command == 'TIME' then return { math.floor(now() / 1000), now() % 1000 * 1000 } end
  if command == 'EXPIRE' then return expire(args[1], args[2] * 1000) end
  if command == 'PEXPIRE' then return expire(args[1], args[2]) end
  if command == 'PEXPIREAT' then return expire(args[1], args[2] - now()) end
  if command == 'PTTL' then
    local left = server.call('PTTL', args[1])
    return left > 0 and math.ceil(left / SLOWER) or left
  end
  if args[3] == 'PX' then args[4] = string.format('%.0f', args[4] * SLOWER) end
  return server.call(command, unpack(args))
end
"""

_PASS: Final = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left > 0 then redis.call('PEXPIRE', key, string.format('%.0f', left - ARGV[1] * 1000)) end
end
return redis.call('INCRBY', 'clock', ARGV[1])
"""

_START_MS: Final = 1_800_000_000_000


def stop_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts of pools that are opened from now on read this clock."""
    source = scripts._source
    monkeypatch.setattr(scripts, "_source", lambda name, database: _STOPPED + source(name, database))


async def start(redis: Any) -> None:
    """Set the clock of an empty server."""
    await redis.set(CLOCK, _START_MS)


async def pass_time(redis: Any, ms: int) -> int:
    """Let time pass; return what the clock then shows."""
    return int(await redis.eval(_PASS, 0, ms))


async def now_ms(redis: Any) -> int:
    """What the clock shows."""
    return int(await redis.get(CLOCK))
