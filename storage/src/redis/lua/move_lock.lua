-- Keeps gateways and other migrations away. ARGV: name of the migration, ms for which the lock holds, ms after which a silent
-- gateway counts as gone. Returns the incarnation (or zeros) and the time (ms).
local me, holds, silence = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local state = redis.call('HMGET', P .. 'state', 'format', 'incarnation', 'locked_by', 'locked_until')
if state[1] and state[1] ~= '1' then
  return redis.error_reply('PETNETFORMAT the data has format ' .. state[1] .. ', written by a newer version')
end
if state[3] and state[3] ~= me and tonumber(state[4]) > now then
  return redis.error_reply('PETNETMOVING another migration works on the store of this party, or was killed less than 10 s ago')
end
local all = redis.call('HGETALL', P .. 'gateways')
for i = 1, #all, 2 do
  local seen = tonumber(string.match(all[i + 1], '^%d+'))
  if now - seen <= silence then
    return redis.error_reply('PETNETMOVING a gateway of this party is running, or was killed less than 6 s ago: ' .. string.match(all[i + 1], '\n([^\n]+)') .. '; stop it first')
  end
end
redis.call('HSET', P .. 'state', 'locked_by', me, 'locked_until', text(now + holds))
return { state[2] or NO_INCARNATION, text(now) }
