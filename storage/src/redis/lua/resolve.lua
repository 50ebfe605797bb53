-- What became of an operation whose answer was lost. One that was not carried out never will be.
-- ARGV: gateway, number of the operation. Returns its results, or '!' if it was not carried out, or '?' if that is not known.
local me, op = ARGV[1], tonumber(ARGV[2])
-- There is a note from the first heartbeat on. If there is none, the note of this very operation may be what was lost.
local last = redis.call('HGET', P .. 'ops', me) or text(op) .. ' ?'
local space = string.find(last, ' ', 1, true)
local result = '!'
if tonumber(string.sub(last, 1, space - 1)) == op then result = string.sub(last, space + 1) end
-- Written in any case: waiting for the replicas means waiting for a write of the same connection. Deleted first, since that is
-- allowed even when memory is full.
redis.call('HDEL', P .. 'ops', me)
redis.call('HSET', P .. 'ops', me, text(op) .. ' ' .. result)
return result
