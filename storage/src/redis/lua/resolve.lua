-- What became of an operation whose answer was lost. One that was not carried out never will be.
-- ARGV: gateway, number of the operation. Gives its results, or '!'.
local me, op = ARGV[1], tonumber(ARGV[2])
local last = redis.call('HGET', P .. 'ops', me) or '0 !'
local space = string.find(last, ' ', 1, true)
local result = '!'
if tonumber(string.sub(last, 1, space - 1)) == op then result = string.sub(last, space + 1) end
-- Written in any case: what waits for the replicas waits for a write of its own connection. Deleted first, since that is
-- allowed when memory is full.
redis.call('HDEL', P .. 'ops', me)
redis.call('HSET', P .. 'ops', me, text(op) .. ' ' .. result)
return result
