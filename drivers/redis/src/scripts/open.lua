#!lua flags=allow-oom
-- Makes a group unless it is there, and keeps what is said of it.
-- KEYS: stream, facts, parked
-- ARGV: group, where to start, 1 to create the stream, lease in ms, 1 if it was there before, 1 if what is
--       read counts as acknowledged, how many entries had been added when that was last looked at
-- Answers: 1, what was lost (0 nothing, 1 the group, 2 the stream too), the lease, whether what is read
-- counts as acknowledged; or 0 if there is no stream.
local stream, facts, parked = KEYS[1], KEYS[2], KEYS[3]
local group, start, create, lease, known, no_ack = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local had = tonumber(ARGV[7])

local function before(id)
  local millis, sequence = string.match(id, '^(%d+)-(%d+)$')
  if sequence ~= '0' and #sequence < 15 then
    return millis .. '-' .. string.format('%.0f', tonumber(sequence) - 1)
  end
  return string.format('%.0f', math.max(tonumber(millis) - 1, 0)) .. '-18446744073709551615'
end

local exists = redis.call('EXISTS', stream) == 1
if not exists and create ~= '1' then
  return {0}
end
local delivered
if exists then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local fact = {}
    for i = 1, #info, 2 do
      fact[info[i]] = info[i + 1]
    end
    if fact['name'] == group then
      delivered = fact['last-delivered-id']
    end
  end
end

local lost = 0
if not delivered then
  local oldest = redis.call('HGET', facts, 'oldest')
  local read = redis.call('HGET', facts, 'read')
  if not exists then
    -- Whatever comes is new.
    start, lost = '0-0', 2 * tonumber(known)
  elseif oldest or read then
    -- From the oldest that was pending, or from where it had read up to.
    start, lost = read or '0-0', 1
    if oldest and oldest ~= '' then
      start = before(oldest)
    end
  elseif known == '1' then
    start, lost = '0-0', 2
  end
  redis.call('DEL', facts, parked)
  -- How many entries there were before it, where that is known: by that the server tells how many are
  -- unread, also when they are trimmed.
  local before_it
  if not exists then
    before_it = 0
  else
    local info, fact = redis.call('XINFO', 'STREAM', stream), {}
    for i = 1, #info, 2 do
      fact[info[i]] = info[i + 1]
    end
    if start == '$' then
      before_it = fact['entries-added']
    elseif start == '0-0' then
      before_it = fact['entries-added'] - fact['length']
    end
  end
  if before_it then
    redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM', 'ENTRIESREAD', before_it)
  else
    redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
  end
  delivered = start
  if start == '$' then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      if info[2] == group then
        delivered = info[8]
      end
    end
  end
  redis.call('HSET', facts, 'oldest', '', 'read', delivered)
  if lost == 2 and had > 0 then
    -- Counted by who asks; the other members find out too.
    redis.call('HSET', facts, 'lost', had)
  end
end
-- What the first member said is so for all.
redis.call('HSETNX', facts, 'lease', lease)
redis.call('HSETNX', facts, 'no_ack', no_ack)
local kept = redis.call('HMGET', facts, 'lease', 'no_ack')
return {1, lost, tonumber(kept[1]), tonumber(kept[2])}
