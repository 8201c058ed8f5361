#!lua
-- Adds an entry once.
-- KEYS: stream, what was added under this idempotency key
-- ARGV: ms it is remembered, 1 to create the stream, then names and values of the entry
-- Answers: 1 added, 2 it was there, 0 there is no stream, -1 it was there with other content
local digest = {}
for i = 3, #ARGV do
  digest[#digest + 1] = #ARGV[i] .. ':' .. ARGV[i]
end
digest = redis.sha1hex(table.concat(digest))
local known = redis.call('GET', KEYS[2])
if known then
  return known == digest and 2 or -1
end
local added
if ARGV[2] == '1' then
  added = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
else
  added = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', unpack(ARGV, 3))
end
if not added then
  return 0
end
redis.call('SET', KEYS[2], digest, 'PX', ARGV[1])
return 1
