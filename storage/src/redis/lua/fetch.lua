-- The record of a message in the mailbox. ARGV: sequence, MESSAGE_TTL.
if not redis.call('ZSCORE', P .. 'mail', ARGV[1]) then return false end
local m = head(ARGV[1])
local now = service_time()
if m and is_expired(m, tonumber(ARGV[2]), now) then return false end
return redis.call('GET', record_key(ARGV[1])) or false
