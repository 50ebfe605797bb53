-- Pending messages of a peer. ARGV: peer, after, limit. Returns sequence, length, age in seconds and id of each.
local peer = ARGV[1]
local now = service_time()
local all = {}
for i, seq in ipairs(redis.call('ZRANGEBYSCORE', P .. 'pend:' .. peer, '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])) do
  local m = head(seq)
  if m then
    all[i] = { seq, text(m.len), text(math.max(now - m.time, 0)), m.id }
  else
    -- It is damaged, which is found when it is loaded.
    all[i] = { seq, '0', '0', seq }
  end
end
return all
