#!lua
-- Adds scheduled messages that are due to their stream, in the order of their times.
-- KEYS: stream, due, bodies. ARGV: how many at most
-- Answers: how many were taken, ms until the next is due or -1, how many had no body any more
local stream, due, bodies = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local members = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[1])
local gone = 0
if #members > 0 then
  local ids = {}
  for i, member in ipairs(members) do
    ids[i] = string.sub(member, 17)
  end
  for _, body in ipairs(redis.call('HMGET', bodies, unpack(ids))) do
    if body then
      redis.call('XADD', stream, '*', unpack(cmsgpack.unpack(string.sub(body, 17))))
    else
      gone = gone + 1
    end
  end
  -- Only now: what is added and not removed comes twice, what is removed and not added never.
  redis.call('HDEL', bodies, unpack(ids))
  redis.call('ZREM', due, unpack(members))
end
local wait = -1
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
if first[2] then
  wait = math.max(tonumber(first[2]) - now, 0)
elseif #members > 0 then
  redis.call('DEL', bodies)
end
return {#members, wait, gone}
