-- Records of messages, why dead letters died, and when messages were first read. ARGV: maximum bytes, sequences. Returns as many
-- as fit, but at least one.
local room, all = tonumber(ARGV[1]), {}
for i = 2, #ARGV do
  local whole = redis.call('GET', record_key(ARGV[i])) or ''
  room = room - #whole
  if room < 0 and i > 2 then break end
  all[#all + 1] = { whole, redis.call('HGET', P .. 'why', ARGV[i]) or '', text(read_at(ARGV[i]) or 0) }
end
return all
