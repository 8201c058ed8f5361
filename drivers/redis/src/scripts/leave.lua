#!lua flags=allow-oom
-- Gives back all that a consumer has, and forgets it.
-- KEYS: stream, facts, parked. ARGV: group, consumer, parking
local stream, parked = KEYS[1], KEYS[3]
local group, consumer, parking = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
while true do
  local pending = redis.call('XPENDING', stream, group, '-', '+', 1000, consumer)
  if #pending == 0 then
    break
  end
  for _, entry in ipairs(pending) do
    local count = math.max(entry[4] - 1, 0)
    local moved = redis.call('XCLAIM', stream, group, parking, 0, entry[1], 'RETRYCOUNT', count, 'JUSTID')
    if moved[1] then
      redis.call('ZADD', parked, string.format('%.0f', now), entry[1])
    end
  end
end
return redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
