#!lua
-- Notes that a message is done. KEYS: the message's. ARGV: claim, ms it is remembered
-- Answers whether the claim was still there.
local known = redis.call('GET', KEYS[1])
if known == ARGV[1] then
  redis.call('SET', KEYS[1], 'done', 'PX', ARGV[2])
  return 1
end
if not known then
  -- It has expired and nobody has taken it since: handled is handled.
  redis.call('SET', KEYS[1], 'done', 'PX', ARGV[2])
end
return 0
