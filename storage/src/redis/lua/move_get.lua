-- Records of messages, and why dead letters died. ARGV: bytes at most, sequences. Gives as many as fit, one at least.
local room, all = tonumber(ARGV[1]), {}
for i = 2, #ARGV do
  local whole = redis.call('GET', record_key(ARGV[i])) or ''
  room = room - #whole
  if room < 0 and i > 2 then break end
  all[#all + 1] = { whole, redis.call('HGET', P .. 'why', ARGV[i]) or '' }
end
return all
