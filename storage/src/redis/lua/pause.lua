-- The operator pauses a peer at all gateways, or resumes it. ARGV: peer, 1 or 0. Returns whether that is a change.
local peer, paused = ARGV[1], ARGV[2] == '1'
-- The first write: allowed even when memory is full.
local was = redis.call('SREM', P .. 'paused', peer) == 1
if paused then redis.call('SADD', P .. 'paused', peer) end
note('z', 0, { party = peer, id = '-', len = 0, class = 0 })
publish()
return was == paused and 0 or 1
