-- Messages that were handed to readers. ARGV: two per read, in the order of the reads: sequence, and service time of the read.
-- MESSAGE_TTL counts from the first read; among messages of several senders with the same id, the one read last takes
-- precedence. If a read is written twice, the first time stays.
-- The first write: allowed even when memory is full, or messages that were read would never make room.
redis.call('HDEL', P .. 'state', 'reading')
local now = service_time()
-- Reads have an order of their own: seconds of service time, then a count within the second.
local last = redis.call('HGET', P .. 'state', 'read') or '0.000000'
local second, count = tonumber(string.match(last, '^%d+')), tonumber(string.match(last, '%d+$'))
local written = 0
for i = 1, #ARGV, 2 do
  local seq = ARGV[i]
  if redis.call('ZSCORE', P .. 'mail', seq) then
    -- A time far from now would be a mistake; one that is too late at most makes the message live longer.
    local time = math.max(math.min(tonumber(ARGV[i + 1]), now), now - 60)
    if time > second then
      second, count = time, 0
    else
      count = math.min(count + 1, 999999)
    end
    local at = string.format('%.0f.%06d', second, count)
    if redis.call('ZADD', P .. 'read', 'NX', at, seq) == 0 then redis.call('HSET', P .. 'reread', seq, at) end
    written = written + 1
  end
end
if written > 0 then redis.call('HSET', P .. 'state', 'read', string.format('%.0f.%06d', second, count)) end
return written
