-- The heartbeat of a gateway: who is there, who delivers to which peer, service time, expiry, and figures.
-- ARGV: gateway, its label, MESSAGE_TTL, SEND_TTL, DEAD_LETTER_MAX_BYTES, ms after which a silent
-- gateway counts as gone, messages to expire at most, its mood (leaves, first, or usual), then the peers that it can deliver to.
local me, label = ARGV[1], ARGV[2]
local message_ttl, send_ttl, dead_max = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local silence, budget, leaves = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == 'leaves'
local now = now_ms()
local FORGET = 3600 * 1000
-- Damaged messages in front of a list that are looked behind.
local MAX_DAMAGED = 5000

-- The first write: allowed when memory is full.
redis.call('HDEL', P .. 'gateways', me)
local live, names = {}, {}
local all = redis.call('HGETALL', P .. 'gateways')
for i = 1, #all, 2 do
  local lines = {}
  for line in string.gmatch(all[i + 1], '[^\n]+') do lines[#lines + 1] = line end
  local seen = tonumber(lines[1])
  if seen > now then
    -- The clock was set back: its silence is counted from now on.
    seen, lines[1] = now, text(now)
    redis.call('HSET', P .. 'gateways', all[i], table.concat(lines, '\n'))
  end
  -- Whoever had our place and starts anew has died.
  local is_predecessor = ARGV[8] == 'first' and lines[2] == label
  if now - seen > FORGET or is_predecessor then
    redis.call('HDEL', P .. 'gateways', all[i])
    redis.call('HDEL', P .. 'ops', all[i])
  elseif now - seen <= silence then
    local wants = {}
    for j = 3, #lines do wants[lines[j]] = true end
    live[all[i]] = wants
    names[#names + 1] = all[i]
  end
end
if leaves then
  redis.call('HDEL', P .. 'ops', me)
else
  if ARGV[8] == 'first' then redis.call('HSETNX', P .. 'ops', me, '0 !') end
  local wants, lines = {}, { text(now), label }
  for i = 9, #ARGV do
    wants[ARGV[i]] = true
    lines[#lines + 1] = ARGV[i]
  end
  live[me] = wants
  names[#names + 1] = me
  redis.call('HSET', P .. 'gateways', me, table.concat(lines, '\n'))
end
table.sort(names)

-- One gateway keeps the time.
local keeper = redis.call('HGET', P .. 'state', 'keeper')
if keeper == me or not keeper or not live[keeper] then
  if leaves then
    redis.call('HDEL', P .. 'state', 'keeper')
  else
    redis.call('HSET', P .. 'state', 'keeper', me)
  end
  redis.call('HINCRBY', P .. 'state', 'time', LATER)
end

-- Each peer has one gateway that delivers to it: chosen among the live ones that know the peer.
local peers, owners, counts = redis.call('SMEMBERS', P .. 'peers'), {}, {}
table.sort(peers)
for i, peer in ipairs(peers) do
  local able = {}
  for _, name in ipairs(names) do
    if live[name][peer] then able[#able + 1] = name end
  end
  local owner = redis.call('HGET', P .. 'leases', peer)
  local chosen = able[(i - 1) % math.max(#able, 1) + 1]
  local stays = owner and owner ~= me and live[owner] and live[owner][peer]
  if not stays and chosen ~= owner then
    if chosen then
      redis.call('HSET', P .. 'leases', peer, chosen)
    else
      redis.call('HDEL', P .. 'leases', peer)
    end
    owner = chosen
  end
  owners[i] = owner or ''
end

-- Expiry, in service time.
local time = tonumber(redis.call('HGET', P .. 'state', 'time') or '0')
local died, gone, mail_expired = {}, 0, 0
local function expired(key, ttl, act)
  local damaged = 0
  while ttl > 0 and budget > 0 and damaged < MAX_DAMAGED do
    local page = redis.call('ZRANGE', key, damaged, damaged + 9)
    if not page[1] then return end
    for _, seq in ipairs(page) do
      local m = head(seq)
      if m then
        if not is_expired(m, ttl, time) then return end
        -- Damaged ones go with the first readable one behind them.
        for _, older in ipairs(redis.call('ZRANGE', key, 0, damaged)) do act(older, head(older)) end
        budget = budget - damaged - 1
        damaged = 0
        break
      end
      damaged = damaged + 1
    end
  end
end
if not leaves then
  expired(P .. 'mail', message_ttl, function(seq, m)
    end_mail(seq, m)
    mail_expired = mail_expired + 1
  end)
  for _, peer in ipairs(peers) do
    expired(P .. 'pend:' .. peer, send_ttl, function(seq, m)
      gone = gone + (bury(peer, seq, '0', dead_max) or 0)
      died[#died + 1] = { seq, peer, m and m.id or '', m and text(m.len) or '0' }
    end)
  end
end
settle_space()
publish()
for i, peer in ipairs(peers) do
  counts[i] = {
    peer, owners[i], redis.call('ZCARD', P .. 'pend:' .. peer), redis.call('HGET', P .. 'sizes', peer) or '0',
  }
end
local used = redis.call('HGET', P .. 'state', 'used')
return {
  counts, died, gone, budget, redis.call('ZCARD', P .. 'mail'), redis.call('ZCARD', P .. 'dead'),
  text(time), used or '0', mail_expired,
}
