#!lua flags=allow-oom
-- Takes a scheduled message back. KEYS: due, bodies. ARGV: id. Answers whether there was one.
local body = redis.call('HGET', KEYS[2], ARGV[1])
if not body then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('ZREM', KEYS[1], string.sub(body, 1, 16) .. ARGV[1])
