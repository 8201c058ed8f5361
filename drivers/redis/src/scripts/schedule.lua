#!lua
-- Schedules messages of one stream. Those that are due by the server's clock are added at once.
-- KEYS: stream, due, bodies
-- ARGV: when they are due in ms, the most that may be scheduled or 0, 1 to create the stream,
--       then the id and the body of each
-- Answers for each: 1 done, 0 there is no stream, -1 too many are scheduled
local stream, due, bodies = KEYS[1], KEYS[2], KEYS[3]
local at, most, create = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {}
if not create and redis.call('EXISTS', stream) == 0 then
  for _ = 4, #ARGV, 2 do
    answer[#answer + 1] = 0
  end
  return answer
end

for i = 4, #ARGV, 2 do
  local id, body = ARGV[i], ARGV[i + 1]
  local known = redis.call('HGET', bodies, id)
  if at <= now then
    redis.call('XADD', stream, '*', unpack(cmsgpack.unpack(body)))
    answer[#answer + 1] = 1
  elseif most > 0 and not known and redis.call('ZCARD', due) >= most then
    answer[#answer + 1] = -1
  else
    if known then
      redis.call('ZREM', due, string.sub(known, 1, 16) .. id)
    end
    -- Those of one time go in the order in which they were scheduled.
    local number = string.format('%016.0f', redis.call('HINCRBY', bodies, '', 1))
    redis.call('ZADD', due, ARGV[1], number .. id)
    redis.call('HSET', bodies, id, number .. body)
    answer[#answer + 1] = 1
  end
end
return answer
