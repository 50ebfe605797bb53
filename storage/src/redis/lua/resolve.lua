-- What became of an operation whose answer was lost. One that was not carried out never will be.
-- ARGV: gateway, number of the operation. Gives its results, or '!': not carried out, or '?': that is not known.
local me, op = ARGV[1], tonumber(ARGV[2])
-- There is a note from the first heartbeat on. Without one, that of this very operation may be what got lost.
local last = redis.call('HGET', P .. 'ops', me) or text(op) .. ' ?'
local space = string.find(last, ' ', 1, true)
local result = '!'
if tonumber(string.sub(last, 1, space - 1)) == op then result = string.sub(last, space + 1) end
-- Written in any case: what waits for the replicas waits for a write of its own connection. Deleted first, since that is
-- allowed when memory is full.
redis.call('HDEL', P .. 'ops', me)
redis.call('HSET', P .. 'ops', me, text(op) .. ' ' .. result)
return result
