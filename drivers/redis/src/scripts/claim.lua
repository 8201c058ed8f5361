#!lua flags=allow-oom
-- Takes entries that are free or whose reader is gone, and keeps note of where the group is.
-- KEYS: stream, facts, parked
-- ARGV: group, consumer, parking, most, lease in ms, what consumers of ours begin with,
--       ms after which one that has nothing is forgotten, how many entries had been added and how many
--       of them the group had read before the connection broke, or 0
-- Answers: {entries, how often each was delivered, ms until the next is due or -1, how many were pending
--          and are gone}, {unread ones that are gone, how many are unread, consumers that were forgotten,
--          how many entries were added and how many the group has read, unread ones the server has lost}
local stream, facts, parked = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, parking, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local lease = tonumber(redis.call('HGET', facts, 'lease') or ARGV[5])
local prefix, forget = ARGV[6], tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function facts_of(info)
  local all = {}
  for i = 1, #info, 2 do
    all[info[i]] = info[i + 1]
  end
  return all
end
local function less(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  if am ~= bm then
    return tonumber(am) < tonumber(bm)
  end
  return tonumber(as) < tonumber(bs)
end

local wanted, delivered, forgotten = {}, {}, {}
local function want(pending)
  wanted[#wanted + 1] = pending[1]
  delivered[pending[1]] = pending[4]
end

local due = redis.call('ZRANGEBYSCORE', parked, '-inf', now, 'LIMIT', 0, most)
for _, id in ipairs(due) do
  redis.call('ZREM', parked, id)
  local pending = redis.call('XPENDING', stream, group, id, id, 1, parking)[1]
  if pending then
    want(pending)
  end
end

for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local name, pending, idle = info[2], info[4], info[6]
  local ours = string.sub(name, 1, #prefix) == prefix
  if pending == 0 and ours and name ~= consumer and name ~= parking and idle > forget then
    -- It has nothing: only then, for its pending entries would go with it.
    redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
    forgotten[#forgotten + 1] = name
  elseif pending > 0 and #wanted < most
    -- What is parked waits for its time; what is not in the list any more is free.
    and (name ~= parking or pending > redis.call('ZCARD', parked)) then
    local idle = redis.call('XPENDING', stream, group, 'IDLE', lease, '-', '+', most - #wanted, name)
    for _, entry in ipairs(idle) do
      if name ~= parking or not redis.call('ZSCORE', parked, entry[1]) then
        want(entry)
      end
    end
  end
end

local entries, counts, gone = {}, {}, 0
if #wanted > 0 then
  table.sort(wanted, less)
  for from = 1, #wanted, 1000 do
    local ids = {unpack(wanted, from, math.min(from + 999, #wanted))}
    for _, entry in ipairs(redis.call('XCLAIM', stream, group, consumer, 0, unpack(ids))) do
      if entry then
        entries[#entries + 1] = entry
        counts[#counts + 1] = delivered[entry[1]] + 1
      end
    end
  end
  gone = #wanted - #entries
end

-- Where the group begins again if it is lost.
local group_is
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  if info[2] == group then
    group_is = facts_of(info)
  end
end
local read = group_is['last-delivered-id']
local oldest = redis.call('XPENDING', stream, group)[2] or ''
local known = redis.call('HMGET', facts, 'oldest', 'read', 'trimmed', 'lost')
if known[1] ~= oldest or known[2] ~= read then
  redis.call('HSET', facts, 'oldest', oldest, 'read', read)
end

-- Unread entries that are gone: more were added than the group has read and there still are. It shows
-- where the group is before the first entry, and where it is at the end.
local unread = 0
if group_is['entries-read'] and group_is['lag'] ~= 0 then
  local is = facts_of(redis.call('XINFO', 'STREAM', stream))
  local gone_by
  if is['length'] == 0 or less(read, is['recorded-first-entry-id']) then
    gone_by = is['entries-added'] - is['length'] - group_is['entries-read']
  elseif read == is['last-generated-id'] then
    -- No more than are gone at all: a server that was started again may have forgotten what was read.
    gone_by = is['entries-added'] - math.max(group_is['entries-read'], is['length'])
  end
  local before = tonumber(known[3] or 0)
  if gone_by and gone_by ~= before then
    redis.call('HSET', facts, 'trimmed', gone_by)
    unread = math.max(gone_by - before, 0)
  end
end

-- What is kept of a group goes with its stream, but not before it was due.
local lives = redis.call('PTTL', stream)
if lives > 0 then
  redis.call('PEXPIRE', facts, lives)
  local last = redis.call('ZRANGE', parked, -1, -1, 'WITHSCORES')[2]
  if last then
    redis.call('PEXPIRE', parked, string.format('%.0f', math.max(last - now, 0) + lives))
  end
end

-- A server that took another's place without all of its entries. Of many members one counts them.
local had, had_read = tonumber(ARGV[8]), tonumber(ARGV[9])
local has_read = group_is['entries-read'] or 0
local added = group_is['lag'] and has_read + group_is['lag'] or 0
local counted = tonumber(known[4] or 0)
local lost = 0
if had > 0 and added > 0 and added < had then
  lost = math.max(had - math.max(added, had_read, counted), 0)
  redis.call('HSET', facts, 'lost', math.max(had, counted))
elseif counted > 0 and added >= counted then
  redis.call('HDEL', facts, 'lost')
end

local wait = -1
local first = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')
if first[2] then
  wait = math.max(tonumber(first[2]) - now, 0)
end
return {
  {entries, counts, wait, gone},
  {unread, group_is['lag'] or 0, forgotten, added, has_read, lost},
}
