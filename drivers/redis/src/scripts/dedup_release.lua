#!lua flags=allow-oom
-- Gives a claim up. KEYS: the message's. ARGV: claim
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
