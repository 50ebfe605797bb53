-- A message in the mailbox. ARGV: sequence, MESSAGE_TTL. Returns its record, 1 if it is unread, its age in seconds.
if not redis.call('ZSCORE', P .. 'mail', ARGV[1]) then return false end
local m = head(ARGV[1])
local now = service_time()
if m and is_over(ARGV[1], tonumber(ARGV[2]), now) then return false end
local whole = redis.call('GET', record_key(ARGV[1])) or ''
return { whole, read_at(ARGV[1]) and 0 or 1, text(m and math.max(now - m.time, 0) or 0) }
