-- Keeps chunks of a message that is still being uploaded for longer. ARGV: their name, seconds.
-- Those of an accepted message do not expire, and must not begin to.
local body = body_key(ARGV[1])
if redis.call('TTL', body) <= 0 then return 0 end
return redis.call('EXPIRE', body, ARGV[2])
