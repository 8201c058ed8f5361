#!lua
-- Makes an empty stream unless it is there. KEYS: stream. ARGV: the name of a group for a moment
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('XLEN', KEYS[1])
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '$', 'MKSTREAM')
return redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
