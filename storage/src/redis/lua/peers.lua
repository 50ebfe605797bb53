-- Peers with pending messages.
local all = {}
for _, peer in ipairs(redis.call('SMEMBERS', P .. 'peers')) do
  if redis.call('ZCARD', P .. 'pend:' .. peer) > 0 then all[#all + 1] = peer end
end
return all
