#!lua flags=allow-oom
-- Takes consumers out again. KEYS: pulse's table. ARGV: its channel, consumers
for i = 2, #ARGV do
  local consumer = ARGV[i]
  if redis.call('HDEL', KEYS[1], consumer) == 1 then
    local revision = tostring(redis.call('HINCRBY', KEYS[1], '=rev', 1))
    redis.call('PUBLISH', ARGV[1], 'del:' .. struct.pack('ic0ic0',
      #consumer, consumer, #revision, revision))
  end
end
return 0
