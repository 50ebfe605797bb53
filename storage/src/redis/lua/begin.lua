-- A gateway begins to work with this server. A new incarnation is drawn for every server process and every promotion: a server
-- that returned with older data must not give out a number twice. Nor may it give out a sequence twice: what a gateway still has
-- under way would be taken for another message.
-- ARGV: the server's process and replication id, 16 random hexadecimal digits, the highest sequence that the gateway heard of.
-- Returns incarnation and time (ms).
local epoch, random, heard = ARGV[1], ARGV[2], tonumber(ARGV[3])
-- More messages than can have been lost at once; sequences go up to 2^53.
local SKIPPED = 4294967296
local state = redis.call('HMGET', P .. 'state', 'format', 'epoch', 'incarnation', 'seq', 'moving', 'locked_until', 'named')
if state[1] and state[1] ~= '1' then
  return redis.error_reply('PETNETFORMAT the data has format ' .. state[1] .. ', written by a newer version')
end
if state[5] then
  return redis.error_reply('PETNETMOVING a migration into this Redis is not finished: run it again, or delete the keys of this party')
end
local now = now_ms()
if state[6] and tonumber(state[6]) > now then
  return redis.error_reply('PETNETMOVING a migration works on the store of this party; start again when it has ended')
end
if state[2] == epoch then return { state[3], text(now) } end
-- The first write: allowed even when memory is full.
redis.call('DEL', P .. 'numbers')
redis.call('HDEL', P .. 'state', 'moved_from')
local started = now
if state[3] then started = math.max(now, tonumber(string.sub(state[3], 1, 16), 16) + 1) end
local incarnation = string.format('%016x', started) .. random
local seq = math.max(tonumber(state[4] or '0'), heard)
if seq > 0 then seq = seq + SKIPPED end
redis.call('HSET', P .. 'state', 'format', '1', 'epoch', epoch, 'incarnation', incarnation, 'seq', text(seq))
-- Nothing came in between.
if state[7] and state[7] == state[4] then redis.call('HSET', P .. 'state', 'named', text(seq)) end
redis.call('HSETNX', P .. 'state', 'time', '1000000000')
redis.call('HSETNX', P .. 'state', 'used', '0')
-- Incarnations of which nothing is pending are no longer needed.
local lowest = seq + 1
for _, peer in ipairs(redis.call('SMEMBERS', P .. 'peers')) do
  local first = redis.call('ZRANGE', P .. 'pend:' .. peer, 0, 0)[1]
  if first then lowest = math.min(lowest, tonumber(first)) end
end
local all = redis.call('ZRANGE', P .. 'incarnations', 0, -1, 'WITHSCORES')
for i = 1, #all - 2, 2 do
  if tonumber(all[i + 3]) < lowest then redis.call('ZREM', P .. 'incarnations', all[i]) end
end
redis.call('ZADD', P .. 'incarnations', seq, incarnation)
return { incarnation, text(now) }
