-- What there is to move. ARGV: key of the list, after, limit. Returns sequence, length and service time of each; length and time
-- of a damaged one are empty.
local all = {}
for i, seq in ipairs(redis.call('ZRANGEBYSCORE', P .. ARGV[1], '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])) do
  local m = head(seq)
  all[i] = { seq, m and text(m.len) or '', m and text(m.time) or '' }
end
return all
