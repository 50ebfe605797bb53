-- Ends a migration. ARGV: name of the migration, 1 to make the store one that a gateway may use.
local moving = redis.call('HGET', P .. 'state', 'moving')
if ARGV[2] == '1' and moving then
  -- An operator who did not learn of the end will ask for it again.
  redis.call('HSET', P .. 'state', 'moved_from', moving)
  redis.call('HDEL', P .. 'state', 'moving', 'moved')
end
if redis.call('HGET', P .. 'state', 'locked_by') == ARGV[1] then
  redis.call('HDEL', P .. 'state', 'locked_by', 'locked_until')
end
return 1
