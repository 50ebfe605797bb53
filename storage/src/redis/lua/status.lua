-- The state of the store, for people. Changes nothing.
local function all_of(hash)
  return redis.call('HGETALL', P .. hash)
end
local peers = {}
for i, peer in ipairs(redis.call('SMEMBERS', P .. 'peers')) do
  peers[i] = {
    peer, redis.call('HGET', P .. 'leases', peer) or '', redis.call('ZCARD', P .. 'pend:' .. peer),
    text(figure('sizes', peer)),
  }
  local first = redis.call('ZRANGE', P .. 'pend:' .. peer, 0, 0)[1]
  local m = first and head(first)
  peers[i][5] = m and text(math.max(service_time() - m.time, 0)) or ''
end
local state = redis.call('HMGET', P .. 'state', 'moving', 'locked_until')
local moving = state[1] and 'unfinished' or (state[2] and tonumber(state[2]) > now_ms() and 'running' or '')
return {
  peers, all_of('gateways'), text(now_ms()), redis.call('ZCARD', P .. 'mail'), redis.call('ZCARD', P .. 'dead'),
  text(figure('state', 'used')), text(figure('state', 'dead_bytes')), moving,
}
