-- Pending messages of a peer. ARGV: peer, after, limit, SEND_TTL. Gives sequence, length, seconds left, id of each.
local peer, send_ttl = ARGV[1], tonumber(ARGV[4])
local now = service_time()
local all = {}
for i, seq in ipairs(redis.call('ZRANGEBYSCORE', P .. 'pend:' .. peer, '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])) do
  local m = head(seq)
  if m then
    all[i] = { seq, text(m.len), text(math.max(m.time + send_ttl - now, 0)), m.id }
  else
    -- Damaged: to be found when it is loaded.
    all[i] = { seq, '0', text(send_ttl), seq }
  end
end
return all
