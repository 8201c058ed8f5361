#!lua flags=allow-oom
-- Shortens a stream.
-- KEYS: stream. ARGV: how many entries it is to keep, 1 to remove also what groups have not handled,
-- what the keys of groups' facts begin with
-- Answers: how many were removed; then for each group that lost some its name and how many, or, where
-- nothing may be lost, the name of the group that is behind and 0
local stream, keep, hard = KEYS[1], tonumber(ARGV[1]), ARGV[2] == '1'
local function split(id)
  local millis, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(millis), tonumber(sequence)
end
local function less(a, b)
  local am, as = split(a)
  local bm, bs = split(b)
  return am < bm or (am == bm and as < bs)
end

local function facts_of(info)
  local all = {}
  for i = 1, #info, 2 do
    all[info[i]] = info[i + 1]
  end
  return all
end

local length = redis.call('XLEN', stream)
if length <= keep then
  return {0}
end
local groups = {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  groups[#groups + 1] = facts_of(info)
end

local answer = {0}
if hard then
  answer[1] = redis.call('XTRIM', stream, 'MAXLEN', '~', keep)
  if answer[1] == 0 then
    return answer
  end
  local is = facts_of(redis.call('XINFO', 'STREAM', stream))
  for _, group in ipairs(groups) do
    -- What is pending may be handled yet; when it is to come again and is gone, it is counted then.
    if group['entries-read'] and less(group['last-delivered-id'], is['recorded-first-entry-id']) then
      local unread = is['entries-added'] - is['length'] - group['entries-read']
      -- The keys of a stream are all in one slot. Readers count what is more than this.
      local facts = ARGV[3] .. group['name']
      local known = tonumber(redis.call('HGET', facts, 'trimmed') or 0)
      if unread > known then
        redis.call('HSET', facts, 'trimmed', unread)
        answer[#answer + 1] = group['name']
        answer[#answer + 1] = unread - known
      end
    end
  end
  return answer
end

-- What every group is done with ends here.
local floor, behind
for _, group in ipairs(groups) do
  local oldest = redis.call('XPENDING', stream, group['name'])[2]
  local at = oldest
  if not at then
    local millis, sequence = string.match(group['last-delivered-id'], '^(%d+)-(%d+)$')
    -- One too many stays where the number is too large to count on.
    at = #sequence < 15 and millis .. '-' .. string.format('%.0f', sequence + 1) or group['last-delivered-id']
  end
  if not floor or less(at, floor) then
    floor, behind = at, group['name']
  end
end
-- Some at a time: a script keeps everybody waiting.
for _ = 1, 10 do
  local most = math.min(redis.call('XLEN', stream) - keep, 1000)
  if most <= 0 then
    return answer
  end
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', most + 1)
  local boundary = oldest[most + 1] and oldest[most + 1][1]
  local blocked = floor and (not boundary or less(floor, boundary))
  if blocked then
    boundary = floor
  end
  answer[1] = answer[1] + redis.call('XTRIM', stream, 'MINID', boundary)
  if blocked then
    if redis.call('XLEN', stream) > keep then
      answer[#answer + 1] = behind
      answer[#answer + 1] = 0
    end
    return answer
  end
end
return answer
