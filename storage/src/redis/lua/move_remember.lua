-- Keeps the memory of one incarnation of a sender. ARGV: sender, incarnation, low-water mark, its place among the sender's
-- incarnations, 1 for the first part, then ranges as 'end:start'.
local who, inc = ARGV[1], ARGV[2]
local had = P .. 'had:' .. inc .. ':' .. who
if ARGV[5] == '1' then redis.call('DEL', had) end
redis.call('SADD', P .. 'senders', who)
redis.call('HSET', P .. 'marks:' .. who, inc, ARGV[3])
redis.call('ZADD', P .. 'seen:' .. who, ARGV[4], inc)
for i = 6, #ARGV do redis.call('ZADD', had, 0, ARGV[i]) end
return 1
