-- Takes a store for a migration: an empty one, or one that this very migration has begun to fill, or one that it has filled and
-- nobody has used since (no gateway has given it an epoch).
-- ARGV: state of the source, its last sequence, start of its newest incarnation (16 hexadecimal digits).
-- Returns the sequence up to which everything is here, with 0 if the migration is new, 1 if it was begun before, 2 if it had
-- ended; or nothing if the store is not empty.
local source = ARGV[1]
local state = redis.call('HMGET', P .. 'state', 'moving', 'moved', 'seq', 'moved_from', 'epoch')
if state[1] then
  if state[1] ~= source then return false end
  return { state[2], 1 }
end
if state[4] == source and state[5] == '' then return { ARGV[2], 2 } end
if tonumber(state[3] or '0') > 0 or redis.call('EXISTS', P .. 'senders', P .. 'dead', P .. 'mail') > 0 then return false end
redis.call('HSET', P .. 'state', 'format', '1', 'moving', source, 'moved', '0', 'seq', ARGV[2], 'time', '1000000000',
  'used', '0', 'dead_bytes', '0', 'epoch', '', 'incarnation', ARGV[3] .. string.rep('0', 16))
return { '0', 0 }
