#!lua flags=allow-oom
-- Settles deliveries that are still the reader's.
-- KEYS: stream, facts, parked
-- ARGV: group, consumer, parking, how many are done, id and count of each,
--       then id, count and delay in ms of each that comes again; a delay of -1 gives it back uncounted
-- Answers: the ids that were not the reader's any more, and how many entries are gone
local stream, parked = KEYS[1], KEYS[3]
local group, consumer, parking = ARGV[1], ARGV[2], ARGV[3]
local dones = tonumber(ARGV[4])
local lost, gone = {}, 0

local function is_mine(id, count)
  local pending = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  if pending and pending[4] == tonumber(count) then
    return true
  end
  lost[#lost + 1] = id
  return false
end

local done, at = {}, 5
for _ = 1, dones do
  if is_mine(ARGV[at], ARGV[at + 1]) then
    done[#done + 1] = ARGV[at]
  end
  at = at + 2
end
for from = 1, #done, 1000 do
  redis.call('XACK', stream, group, unpack(done, from, math.min(from + 999, #done)))
end

if at <= #ARGV then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  while at <= #ARGV do
    local id, count, delay = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    if is_mine(id, count) then
      if delay < 0 then
        count, delay = count - 1, 0
      end
      local moved = redis.call('XCLAIM', stream, group, parking, 0, id, 'RETRYCOUNT', count, 'JUSTID')
      if moved[1] then
        redis.call('ZADD', parked, string.format('%.0f', now + delay), id)
      else
        gone = gone + 1
      end
    end
    at = at + 3
  end
end
return {lost, gone}
