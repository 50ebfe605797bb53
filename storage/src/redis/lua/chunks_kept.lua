-- Chunks of a message that is still coming are kept for longer. ARGV: their name, seconds.
-- Those of one that was accepted do not expire, and must not begin to.
local body = body_key(ARGV[1])
if redis.call('TTL', body) <= 0 then return 0 end
return redis.call('EXPIRE', body, ARGV[2])
