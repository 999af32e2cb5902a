"""What Redis is asked to do, as scripts: each is done as a whole or not at all.

Redis keeps, under one `{namespace}` so that all of it lives on one node of a cluster:

    meta        hash: revision, generation and drains (counters), epoch, held_until
    instances   hash: id -> "revision generation ended ended_at drained_until body"; "-" where there is nothing
    deadlines   sorted set: "id#generation" by the end of its lease, for those that have one
    evictions   sorted set: "id#generation" by when it is evicted, for those whose lease has ended
    drains      sorted set: id by the end of its drain, registered or not
    changes     stream: entry `revision-0` for each visible change

Times are in milliseconds since the epoch, by Redis' own clock. A change is decided by a replica, from what it knows, and made only
if nobody has changed the instance since: so the rules stand in one place, in Python, and the scripts know none of them.
"""

from typing import Final

KEYS: Final = ("meta", "instances", "deadlines", "evictions", "drains", "changes")
KEPT: Final = 10_000
"""About how many changes the stream keeps; who is further behind reads everything anew."""

_COMMON: Final = """
local meta, instances, deadlines, evictions, drains, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
-- A revision that is lower than one that a replica has seen: Redis has lost what it acknowledged.
local function lost(seen) return tonumber(redis.call('HGET', meta, 'revision') or '0') < tonumber(seen) end
local function now()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function number(n) return string.format('%.0f', n) end
local function parts(value)
  local revision, generation, ended, ended_at, drained, body = string.match(value, '^(%S+) (%S+) (%S+) (%S+) (%S+) (.*)$')
  return {revision = revision, generation = generation, ended = ended, ended_at = ended_at, drained = drained, body = body}
end
local function tell(kind, id, value, who)
  local revision = number(redis.call('HINCRBY', meta, 'revision', 1))
  if value then value = revision .. ' ' .. value end
  redis.call('XADD', changes, 'MAXLEN', '~', KEPT, revision .. '-0', 'kind', kind, 'id', id, 'value', value or '', 'who', who)
  if value then redis.call('HSET', instances, id, value) end
  return revision
end
local function joined(r) return r.generation .. ' ' .. r.ended .. ' ' .. r.ended_at .. ' ' .. r.drained .. ' ' .. r.body end
local function remove(id, r, change, who)
  redis.call('HDEL', instances, id)
  redis.call('ZREM', deadlines, id .. '#' .. r.generation)
  redis.call('ZREM', evictions, id .. '#' .. r.generation)
  return tell(change, id, nil, who)
end
local function finish(member, reason, at, evict_after, who)
  local id, generation = string.match(member, '^(.*)#(%d+)$')
  redis.call('ZREM', deadlines, member)
  local value = redis.call('HGET', instances, id)
  local r = value and parts(value)
  if not r or r.generation ~= generation or r.ended ~= '-' then return nil end
  r.ended, r.ended_at = reason, number(at)
  if evict_after > 0 then redis.call('ZADD', evictions, at + evict_after, member) end
  return tell('changed', id, joined(r), who)
end
local function undrain(id, who)
  redis.call('ZREM', drains, id)
  redis.call('HINCRBY', meta, 'drains', 1)
  local value = redis.call('HGET', instances, id)
  local r = value and parts(value)
  if not r or r.drained == '-' then return nil end
  r.drained = '-'
  return tell('undrained', id, joined(r), who)
end
""".replace("KEPT", str(KEPT))

CHANGE: Final = f"""{_COMMON}
-- now, id, revision that the caller knows ('0': unknown id), generation ('': a new one), body, ttl, room, moved, who,
-- highest revision that it has seen
if lost(ARGV[10]) then return {{'LOST'}} end
local at, id, known, generation, body, ttl, who = now(), ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[9]
local room = tonumber(ARGV[7])
local value = redis.call('HGET', instances, id)
local r = value and parts(value)
if (r and r.revision or '0') ~= known then return {{'CONFLICT', redis.call('HGET', meta, 'revision') or '0'}} end
if not r and room > 0 and redis.call('HLEN', instances) >= room then return {{'FULL'}} end
if generation == '' then
  generation = math.max(tonumber(redis.call('HGET', meta, 'generation') or '0') + 1, at * 1000)
  generation = number(generation)
  redis.call('HSET', meta, 'generation', generation)
end
local member = id .. '#' .. generation
if r and r.generation ~= generation then
  redis.call('ZREM', deadlines, id .. '#' .. r.generation)
  redis.call('ZREM', evictions, id .. '#' .. r.generation)
end
local drained = redis.call('ZSCORE', drains, id)
local made = {{generation = generation, ended = '-', ended_at = '-', drained = drained and number(drained) or '-', body = body}}
redis.call('ZADD', deadlines, 'GT', number(at + ttl), member)
redis.call('ZREM', evictions, member)
local revision
if r and joined(r) == joined(made) then return {{'OK', r.revision}} end
if ARGV[8] == '1' then remove(id, r, 'moved', who) redis.call('ZADD', deadlines, number(at + ttl), member) end
return {{'OK', tell(r and r.generation == generation and 'changed' or 'registered', id, joined(made), who)}}
"""

REMOVE: Final = f"""{_COMMON}
-- now, id, revision that the caller knows, who, highest revision
if lost(ARGV[5]) then return {{'LOST'}} end
local value = redis.call('HGET', instances, ARGV[2])
local r = value and parts(value)
if not r or r.revision ~= ARGV[3] then return {{'CONFLICT', redis.call('HGET', meta, 'revision') or '0'}} end
return {{'OK', remove(ARGV[2], r, 'deregistered', ARGV[4])}}
"""

END: Final = f"""{_COMMON}
-- now, reason, evict after, who, members
local at, last = now(), nil
for i = 5, #ARGV do last = finish(ARGV[i], ARGV[2], at, tonumber(ARGV[3]), ARGV[4]) or last end
return last or '0'
"""

DRAIN: Final = f"""{_COMMON}
-- now, id, revision that the caller knows, until, most, who, highest revision
if lost(ARGV[7]) then return {{'LOST'}} end
local value = redis.call('HGET', instances, ARGV[2])
local r = value and parts(value)
if not r or r.revision ~= ARGV[3] then return {{'CONFLICT', redis.call('HGET', meta, 'revision') or '0'}} end
if redis.call('ZCARD', drains) >= tonumber(ARGV[5]) and not redis.call('ZSCORE', drains, ARGV[2]) then return {{'FULL'}} end
redis.call('ZADD', drains, ARGV[4], ARGV[2])
redis.call('HINCRBY', meta, 'drains', 1)
r.drained = ARGV[4]
return {{'OK', tell('drained', ARGV[2], joined(r), ARGV[6])}}
"""

UNDRAIN: Final = f"""{_COMMON}
-- now, id, who, highest revision
if lost(ARGV[4]) then return {{'LOST'}} end
local there = redis.call('HEXISTS', instances, ARGV[2]) == 1 or redis.call('ZSCORE', drains, ARGV[2])
if not there then return {{'UNKNOWN'}} end
return {{'OK', undrain(ARGV[2], ARGV[3]) or redis.call('HGET', meta, 'revision') or '0'}}
"""

RENEW: Final = f"""{_COMMON}
-- now, then for each lease: member, for how long it lasts from now on
local at, ends = now(), {{}}
for i = 2, #ARGV, 2 do
  ends[i - 1] = number(at + ARGV[i + 1])
  ends[i] = ARGV[i]
end
return redis.call('ZADD', deadlines, 'XX', 'GT', unpack(ends))
"""

LATEST: Final = f"""{_COMMON}
-- now, members; returns for each how long its lease lasts from now on, nothing for those without one
local at, found = now(), {{}}
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', deadlines, ARGV[i])
  found[i - 1] = score and number(score - at)
end
return found
"""

HOLD: Final = f"""{_COMMON}
-- now, for how long nothing expires
local until_ = now() + ARGV[2]
if until_ > tonumber(redis.call('HGET', meta, 'held_until') or '0') then redis.call('HSET', meta, 'held_until', number(until_)) end
"""

SWEEP: Final = f"""{_COMMON}
-- now, limit, evict after, who, ttl
-- returns how many expired and were evicted, by how much it is late, the latest revision, that of the drains, and the epoch
local at, limit, who, expired, evicted, late = now(), ARGV[2], ARGV[4], 0, 0, 0
local held = tonumber(redis.call('HGET', meta, 'held_until') or '0')
local gap = at - tonumber(redis.call('HGET', meta, 'swept_at') or '0')
redis.call('HSET', meta, 'swept_at', number(at))
if tonumber(ARGV[5]) > 0 and (gap > 5000 or gap < 0) then
  -- nobody has looked for a while, or the clock has jumped: everyone gets a full lease
  held = at + tonumber(ARGV[5])
  redis.call('HSET', meta, 'held_until', number(held))
end
if at >= held then
  local due = redis.call('ZRANGEBYSCORE', deadlines, '-inf', number(at), 'LIMIT', 0, limit)
  if due[1] then late = at - math.max(held, tonumber(redis.call('ZSCORE', deadlines, due[1]))) end
  for _, member in ipairs(due) do
    if finish(member, 'LEASE_EXPIRED', at, tonumber(ARGV[3]), who) then expired = expired + 1 end
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', evictions, '-inf', number(at), 'LIMIT', 0, limit)) do
    local id, generation = string.match(member, '^(.*)#(%d+)$')
    local value = redis.call('HGET', instances, id)
    local r = value and parts(value)
    redis.call('ZREM', evictions, member)
    if r and r.generation == generation then remove(id, r, 'evicted', who) evicted = evicted + 1 end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', drains, '-inf', number(at), 'LIMIT', 0, limit)) do undrain(id, who) end
return {{expired, evicted, late, redis.call('HGET', meta, 'revision') or '0', redis.call('HGET', meta, 'drains') or '0',
  redis.call('HGET', meta, 'epoch') or ''}}
"""

BEGIN: Final = f"""{_COMMON}
-- now, an epoch for a registry without one, the highest revision that the caller has seen
-- A revision that goes back: Redis has lost what it acknowledged, so nobody may go on from where he was.
local revision = tonumber(redis.call('HGET', meta, 'revision') or '0')
local epoch = redis.call('HGET', meta, 'epoch')
if revision < tonumber(ARGV[3]) then
  redis.call('HSET', meta, 'revision', number(tonumber(ARGV[3]) + 1))
  redis.call('DEL', changes)
  epoch = nil
end
if not epoch then epoch = ARGV[2] redis.call('HSET', meta, 'epoch', epoch) end
return {{epoch, redis.call('HGET', meta, 'revision') or '0'}}
"""
