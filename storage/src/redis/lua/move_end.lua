-- Ends a migration. ARGV: who, 1 to make the store one that a gateway may use.
if ARGV[2] == '1' then redis.call('HDEL', P .. 'state', 'moving', 'moved') end
if redis.call('HGET', P .. 'state', 'locked_by') == ARGV[1] then
  redis.call('HDEL', P .. 'state', 'locked_by', 'locked_until')
end
return 1
