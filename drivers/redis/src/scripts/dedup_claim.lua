#!lua
-- Claims a message. KEYS: the message's. ARGV: claim, ms until it expires
-- Answers: 1 it is ours, 0 another has it, 2 it is done
local known = redis.call('GET', KEYS[1])
if not known then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return known == 'done' and 2 or 0
