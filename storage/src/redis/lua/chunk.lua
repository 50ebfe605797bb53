-- Keeps a chunk of a message that is still coming. ARGV: name of its chunks, number, content, seconds that they are kept.
local body = body_key(ARGV[1])
-- It was accepted meanwhile: this one came late, and nothing of it may expire any more.
if redis.call('TTL', body) == -1 then return 0 end
redis.call('HSET', body, ARGV[2], ARGV[3])
redis.call('EXPIRE', body, ARGV[4])
return 1
