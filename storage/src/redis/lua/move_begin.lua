-- Takes an empty store for a migration, or one that this very migration has begun to fill.
-- ARGV: state of the source, its last sequence, start of its newest incarnation (16 hexadecimal digits).
-- Gives the sequence up to which everything is here and whether it was begun before; or nothing: it is not empty.
local source = ARGV[1]
local state = redis.call('HMGET', P .. 'state', 'moving', 'moved', 'seq')
if state[1] then
  if state[1] ~= source then return false end
  return { state[2], 1 }
end
if tonumber(state[3] or '0') > 0 or redis.call('EXISTS', P .. 'senders', P .. 'dead', P .. 'mail') > 0 then return false end
redis.call('HSET', P .. 'state', 'format', '1', 'moving', source, 'moved', '0', 'seq', ARGV[2], 'time', '1000000000',
  'used', '0', 'dead_bytes', '0', 'epoch', '', 'incarnation', ARGV[3] .. string.rep('0', 16))
return { '0', 0 }
