"""What several nodes change at once, each in one step of the server: leases, and answers within their bytes.

The server runs them as functions (Redis 7, Valkey); where a user may not load functions, as scripts. Where scripts are
not allowed either, they are not done, and the callers hear "not known". The library's name carries a digest of its
text: edges of different versions do not replace each other's.
"""

import hashlib
from typing import Any

import structlog
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from edge.index.servers import Client

_log = structlog.get_logger(__name__)

_LUA = """
-- A key of another type than ours is garbage: it goes.
local function ours(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('UNLINK', key) end
end

-- KEYS lease, fence; ARGV node, milliseconds, milliseconds of the fence. A token is the server's microsecond, or one
-- more than the last: it grows even when the fence was flushed away.
local function lease_take(keys, args)
  ours(keys[1], 'hash')
  ours(keys[2], 'string')
  local node = redis.call('HGET', keys[1], 'node')
  if node and node ~= args[1] then
    return {0, node, redis.call('PTTL', keys[1])}
  end
  local time = redis.call('TIME')
  local last = tonumber(redis.call('GET', keys[2]) or '0') or 0
  local token = math.max(last + 1, tonumber(time[1]) * 1000000 + tonumber(time[2]))
  local text = string.format('%.0f', token)
  redis.call('SET', keys[2], text, 'PX', args[3])
  redis.call('DEL', keys[1])
  redis.call('HSET', keys[1], 'node', args[1], 'token', text)
  redis.call('PEXPIRE', keys[1], args[2])
  return {1, text, 0}
end

-- KEYS lease; ARGV node, token.
local function lease_release(keys, args)
  ours(keys[1], 'hash')
  local held = redis.call('HMGET', keys[1], 'node', 'token')
  if held[1] == args[1] and held[2] == args[2] then return redis.call('DEL', keys[1]) end
  return 0
end

local function forget(base, revision, member)
  local key, size = string.match(member, '^(%w+):(%d+)$')
  if not key then return end
  redis.call('HINCRBY', base .. 'answers', revision, -tonumber(size))
  return base .. 'answer:' .. revision .. ':' .. key
end

local function make_room(base, most)
  for _ = 1, 1000 do
    local total, most_of, fattest = 0, -1, nil
    local sizes = redis.call('HGETALL', base .. 'answers')
    for i = 1, #sizes, 2 do
      local size = tonumber(sizes[i + 1]) or 0
      total = total + size
      if size > most_of then most_of, fattest = size, sizes[i] end
    end
    if total <= most or not fattest then return end
    ours(base .. 'answers:' .. fattest, 'zset')
    local oldest = redis.call('ZPOPMIN', base .. 'answers:' .. fattest)
    if #oldest == 0 then
      redis.call('HDEL', base .. 'answers', fattest)
    else
      local key = forget(base, fattest, oldest[1])
      if key then redis.call('UNLINK', key) end
    end
  end
end

-- KEYS answer, answers of the revision, answers; ARGV base, revision, key, value, milliseconds, most bytes of all.
local function answer_store(keys, args)
  local base, revision, key, value, lasts = args[1], args[2], args[3], args[4], tonumber(args[5])
  ours(keys[1], 'string')
  ours(keys[2], 'zset')
  ours(keys[3], 'hash')
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', keys[2], '-inf', now, 'LIMIT', 0, 100)) do
    redis.call('ZREM', keys[2], member)
    forget(base, revision, member)
  end
  local old = redis.call('STRLEN', keys[1])
  if old > 0 and redis.call('ZREM', keys[2], key .. ':' .. old) > 0 then
    redis.call('HINCRBY', keys[3], revision, -old)
  end
  redis.call('SET', keys[1], value, 'PX', lasts)
  redis.call('ZADD', keys[2], now + lasts, key .. ':' .. #value)
  redis.call('PEXPIRE', keys[2], lasts)
  if not tonumber(redis.call('HGET', keys[3], revision) or '0') then redis.call('HDEL', keys[3], revision) end
  redis.call('HINCRBY', keys[3], revision, #value)
  redis.call('PEXPIRE', keys[3], lasts)
  make_room(base, tonumber(args[6]))
  return redis.call('EXISTS', keys[1])
end

-- KEYS answers of the revision, answers; ARGV base, revision. How many are left for the next call.
local function answer_drop(keys, args)
  ours(keys[1], 'zset')
  ours(keys[2], 'hash')
  local popped = redis.call('ZPOPMIN', keys[1], 1000)
  for i = 1, #popped, 2 do
    local key = forget(args[1], args[2], popped[i])
    if key then redis.call('UNLINK', key) end
  end
  local left = redis.call('ZCARD', keys[1])
  if left == 0 then redis.call('HDEL', keys[2], args[2]) end
  return left
end
"""
_NAMES = ("lease_take", "lease_release", "answer_store", "answer_drop")
_VERSION = hashlib.sha256(_LUA.encode()).hexdigest()[:8]
LIBRARY = f"deltaic_{_VERSION}"
_CODE = f"#!lua name={LIBRARY}\n{_LUA}" + "".join(
    f"redis.register_function('{LIBRARY}_{name}', {name})\n" for name in _NAMES
)
_SCRIPTS = {name: f"{_LUA}\nreturn {name}(KEYS, ARGV)" for name in _NAMES}
_DIGESTS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in _SCRIPTS.items()}


class Functions:
    """Calls them in the best way that the server lets this user."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ways = [self._by_function, self._by_script]

    async def call(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """What the function returns; None where this user may run neither functions nor scripts. Raises RedisError."""
        while self._ways:
            try:
                return await self._ways[0](name, keys, args)
            except NoPermissionError as error:
                _log.info("index.not_allowed", way=self._ways[0].__name__.removeprefix("_by_"), why=str(error))
            except ResponseError as error:
                if "unknown command" not in str(error).lower():
                    raise
            self._ways.pop(0)
        return None

    async def _by_function(self, name: str, keys: list[str], args: list[Any]) -> Any:
        parts = ("FCALL", f"{LIBRARY}_{name}", len(keys), *keys, *args)
        try:
            return await self._client.execute_command(*parts)
        except ResponseError as error:
            if "function not found" not in str(error).lower():
                raise
        try:
            await self._client.execute_command("FUNCTION LOAD", _CODE)
        except ResponseError as error:
            if "already exists" not in str(error).lower():
                raise
        return await self._client.execute_command(*parts)

    async def _by_script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        try:
            return await self._client.execute_command("EVALSHA", _DIGESTS[name], len(keys), *keys, *args)
        except NoScriptError:
            return await self._client.execute_command("EVAL", _SCRIPTS[name], len(keys), *keys, *args)
