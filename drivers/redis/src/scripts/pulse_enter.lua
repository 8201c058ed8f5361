#!lua flags=allow-oom
-- Enters consumers among those that sinks of pulse take for alive, and tells running ones.
-- KEYS: pulse's table. ARGV: its channel, until when in ns since 1970, consumers
for i = 3, #ARGV do
  local consumer, time = ARGV[i], ARGV[2]
  if redis.call('HGET', KEYS[1], consumer) ~= time then
    redis.call('HSET', KEYS[1], consumer, time)
    local revision = tostring(redis.call('HINCRBY', KEYS[1], '=rev', 1))
    redis.call('PUBLISH', ARGV[1], 'set:' .. struct.pack('ic0ic0ic0',
      #consumer, consumer, #time, time, #revision, revision))
  end
end
return 0
