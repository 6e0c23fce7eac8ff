"""The leases of one worker in Redis: each call is one Lua script, so that a request is always in exactly one place.

Keys, beside those of scrapy-redis (`<queue>` is the key of its queue):

<queue>:workers           sorted set: worker → the time (ms, of the Redis server) at which its leases end
<queue>:leases:<worker>   hash: number of a lease → where the request came from (kind, key, score), and the request
<queue>:unreadable        list: requests that no worker could decode
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

# The end of a collection from which requests are taken, and to which they are given back.
SORTED, LEFT, RIGHT = "sorted", "left", "right"
MOST = 1000  # leases per call: a script blocks every client of the server

# ARGV of each script that a worker calls: its name, the lease time in ms, the prefix of the keys of leases.
_HEAD = """
local function now() local t = redis.call('TIME'); return t[1] * 1000 + math.floor(t[2] / 1000) end
local function beat(workers) redis.call('ZADD', workers, string.format('%.0f', now() + ARGV[2]), ARGV[1]) end
local function lease(leases, id, kind, key, score, data)
  redis.call('HSET', leases, id, cmsgpack.pack({kind, key, score, data}))
end
local function leased(leases, id)
  local found = redis.call('HGET', leases, id)
  return found and cmsgpack.unpack(found)[4]
end
local function put_back(leases, id)
  local found = redis.call('HGET', leases, id)
  if not found then return 0 end
  local kind, key, score, data = unpack(cmsgpack.unpack(found))
  if kind == 'sorted' then redis.call('ZADD', key, score, data)
  elseif kind == 'set' then redis.call('SADD', key, data)
  elseif kind == 'right' then redis.call('RPUSH', key, data)
  else redis.call('LPUSH', key, data) end
  return redis.call('HDEL', leases, id)
end
local function put_all_back(leases, most)
  local ids = redis.call('HKEYS', leases)
  -- The lease taken last first: so the first one is again the next at its end of a list.
  table.sort(ids, function(a, b) return tonumber(string.match(a, '%d+')) > tonumber(string.match(b, '%d+')) end)
  for i = 1, math.min(#ids, most) do put_back(leases, ids[i]) end
  return math.min(#ids, most)
end
"""

# KEYS: queue, leases, workers. ARGV from 4: kind ('' to take nothing), number of the new lease, leases that are done.
# A call whose answer was lost is made again: it returns the request that the lease has already.
_TAKE = """
beat(KEYS[3])
local done = 0
for i = 6, #ARGV do done = done + redis.call('HDEL', KEYS[2], ARGV[i]) end
if ARGV[4] == '' then return {done} end
local data, score = leased(KEYS[2], ARGV[5]), '0'
if data then return {done, data} end
if ARGV[4] == 'sorted' then
  local first = redis.call('ZPOPMIN', KEYS[1])
  data, score = first[1], first[2]
elseif ARGV[4] == 'right' then data = redis.call('RPOP', KEYS[1])
else data = redis.call('LPOP', KEYS[1]) end
if not data then return {done} end
lease(KEYS[2], ARGV[5], ARGV[4], KEYS[1], score, data)
return {done, data}
"""

# KEYS: list, set or sorted set of start URLs, leases, workers. ARGV from 4: the leases to use.
_TAKE_START_URLS = """
beat(KEYS[3])
local found = {}
for i = 4, #ARGV do
  local data = leased(KEYS[2], ARGV[i])
  if data then found[#found + 1] = data end
end
if #found > 0 then return found end
local kind = redis.call('TYPE', KEYS[1]).ok
for i = 4, #ARGV do
  local data, score, from = false, '0', kind
  if kind == 'list' then data = redis.call('LPOP', KEYS[1])
  elseif kind == 'set' then data = redis.call('SPOP', KEYS[1])
  elseif kind == 'zset' then
    local last = redis.call('ZPOPMAX', KEYS[1])
    data, score, from = last[1], last[2], 'sorted'
  end
  if not data then break end
  lease(KEYS[2], ARGV[i], from, KEYS[1], score, data)
  found[#found + 1] = data
end
return found
"""

# KEYS: queue, dupefilter. ARGV: kind, score, request, fingerprint ('' for a request that is not filtered).
_PUSH = """
if ARGV[4] ~= '' and redis.call('SADD', KEYS[2], ARGV[4]) == 0 then return 0 end
if ARGV[1] == 'sorted' then redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
else redis.call('LPUSH', KEYS[1], ARGV[3]) end
return 1
"""

# KEYS: leases. ARGV from 4: the leases to give back; none for all.
_GIVE_BACK = """
if #ARGV == 3 then return put_all_back(KEYS[1], 1000) end
local n = 0
for i = 4, #ARGV do n = n + put_back(KEYS[1], ARGV[i]) end
return n
"""

# KEYS: workers. ARGV from 4: how many leases of dead workers to give back.
_BEAT = """
beat(KEYS[1])
local n, most = 0, tonumber(ARGV[4])
if most == 0 then return 0 end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now()))) do
  n = n + put_all_back(ARGV[3] .. worker, most - n)
  if n >= most then return n end
  redis.call('ZREM', KEYS[1], worker)
end
return n
"""

# KEYS: workers, own leases. ARGV from 4: how many leases to give back. The worker is removed with its last lease.
_LEAVE = """
local n = put_all_back(KEYS[2], tonumber(ARGV[4]))
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
return n
"""

# KEYS: workers. Returns how many other workers are alive, and how many leases other workers have.
_OTHERS = """
local alive, n, t = 0, 0, now()
local all = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #all, 2 do
  if all[i] ~= ARGV[1] then
    n = n + redis.call('HLEN', ARGV[3] .. all[i])
    if tonumber(all[i + 1]) > t then alive = alive + 1 end
  end
end
return {alive, n}
"""


class Leases:
    """The leases of one worker. Each method is one call of Redis, and raises `redis.RedisError`.

    `kind` is the end of the queue from which requests are taken; `seconds` is the lease time. Every call that takes or
    acknowledges is a heartbeat as well.
    """

    def __init__(self, server: Any, queue: str, kind: str, seconds: float) -> None:
        self._server = server
        self._queue = queue
        self._kind = kind
        self._workers = f"{queue}:workers"
        self.unreadable = f"{queue}:unreadable"
        prefix, worker = f"{queue}:leases:", uuid4().hex
        self._leases = prefix + worker
        self._head = (worker, int(seconds * 1000), prefix)
        self._take = server.register_script(_HEAD + _TAKE)
        self._take_start_urls = server.register_script(_HEAD + _TAKE_START_URLS)
        self._push = server.register_script(_PUSH)
        self._give_back = server.register_script(_HEAD + _GIVE_BACK)
        self._beat = server.register_script(_HEAD + _BEAT)
        self._leave = server.register_script(_HEAD + _LEAVE)
        self._others = server.register_script(_HEAD + _OTHERS)

    def take(self, lease: int, done: Sequence[str]) -> tuple[int, Any]:
        """Acknowledge the leases in `done`, and take the next request. Return how many were still leased, and it.

        The request is None if the queue is empty.
        """
        keys = (self._queue, self._leases, self._workers)
        count, *data = self._take(keys, (*self._head, self._kind, lease, *done))
        return count, data[0] if data else None

    def acknowledge(self, done: Sequence[str]) -> int:
        """Acknowledge the leases in `done`, and return how many were still leased."""
        keys = (self._queue, self._leases, self._workers)
        (count,) = self._take(keys, (*self._head, "", "", *done))
        return int(count)

    def take_start_urls(self, key: str, leases: Sequence[str]) -> list[Any]:
        """Take as many entries of a list, set or sorted set as there are `leases`, or those left."""
        return list(self._take_start_urls((key, self._leases, self._workers), (*self._head, *leases)))

    def push(self, data: Any, score: int, seen: tuple[str, str] | None = None) -> bool:
        """Put a request into the queue. With `seen` (key of the dupefilter, fingerprint): unless it was seen before."""
        key, fingerprint = seen or (self._queue, "")
        return bool(self._push((self._queue, key), (self._kind, score, data, fingerprint)))

    def give_back(self, leases: Sequence[str] = ()) -> int:
        """Put these leases back where they came from, by default up to `MOST` of this worker's."""
        return int(self._give_back((self._leases,), (*self._head, *leases)))

    def set_aside(self, data: Any) -> None:
        """Keep a request that cannot be decoded."""
        self._server.rpush(self.unreadable, data)

    def beat(self, *, give_back: bool) -> int:
        """Renew this worker's leases; with `give_back`, put up to `MOST` leases of dead workers back."""
        return int(self._beat((self._workers,), (*self._head, MOST if give_back else 0)))

    def leave(self) -> int:
        """Put all of this worker's leases back, and remove it from the workers. Return the number of leases."""
        total = 0
        while count := int(self._leave((self._workers, self._leases), (*self._head, MOST))):
            total += count
        return total

    def others(self) -> tuple[int, int]:
        """Return how many other workers are alive, and how many leases other workers, alive or dead, have."""
        alive, leased = self._others((self._workers,), self._head)
        return int(alive), int(leased)

    def clear(self) -> None:
        """Delete all leases of all workers."""
        workers = [
            worker if isinstance(worker, str) else worker.decode()
            for worker in self._server.zrange(self._workers, 0, -1)
        ]
        self._server.delete(self._workers, *(self._head[2] + worker for worker in workers))
