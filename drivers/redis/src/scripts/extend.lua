#!lua flags=allow-oom
-- Begins leases anew.
-- KEYS: stream, facts. ARGV: group, consumer, ms they are to last, lease in ms, id and count of each
-- Answers: the ids that were not the reader's any more
local stream, facts = KEYS[1], KEYS[2]
local group, consumer = ARGV[1], ARGV[2]
local lease = tonumber(redis.call('HGET', facts, 'lease') or ARGV[4])
local idle = math.max(lease - tonumber(ARGV[3]), 0)
local lost, mine = {}, {}
for at = 5, #ARGV, 2 do
  local id = ARGV[at]
  local pending = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  if pending and pending[4] == tonumber(ARGV[at + 1]) then
    mine[#mine + 1] = id
  else
    lost[#lost + 1] = id
  end
end
for from = 1, #mine, 1000 do
  local ids = {unpack(mine, from, math.min(from + 999, #mine))}
  ids[#ids + 1] = 'IDLE'
  ids[#ids + 1] = idle
  ids[#ids + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, consumer, 0, unpack(ids))
end
return lost
