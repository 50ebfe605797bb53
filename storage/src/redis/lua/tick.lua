-- The heartbeat of a gateway: which gateways are there, which of them delivers to which peer, service time, expiry, and figures.
-- ARGV: gateway, its label, MESSAGE_TTL and UNREAD_TTL (in one), SEND_TTL, DEAD_LETTER_MAX_BYTES, ms after which a silent
-- gateway counts as gone, maximum number of messages to expire, its mood (leaves, first, or usual), number of peers that it was
-- told to give up and has given up, these peers, then the peers that it can deliver to.
local me, label = ARGV[1], ARGV[2]
local message_ttl, unread_ttl = string.match(ARGV[3], '^(%d+) (%d+)$')
local send_ttl, dead_max = tonumber(ARGV[4]), tonumber(ARGV[5])
message_ttl, unread_ttl = tonumber(message_ttl), tonumber(unread_ttl)
local silence, budget, leaves = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == 'leaves'
local given_up, first_wanted = {}, 10 + tonumber(ARGV[9])
for i = 10, first_wanted - 1 do given_up[ARGV[i]] = true end
local now = now_ms()
local FORGET = 3600 * 1000
-- Maximum number of damaged messages at the front of a list that are skipped.
local MAX_DAMAGED = 5000

-- Whether Redis accepts messages: if memory is full, this is refused like the first write of a send.
local tried = redis.pcall('HSET', P .. 'state', 'takes', '1')
local refused = type(tried) == 'table' and tried.err or ''
-- The first write that must succeed: allowed even when memory is full.
redis.call('HDEL', P .. 'gateways', me)
local live, names = {}, {}
local all = redis.call('HGETALL', P .. 'gateways')
for i = 1, #all, 2 do
  local lines = {}
  for line in string.gmatch(all[i + 1], '[^\n]+') do lines[#lines + 1] = line end
  local seen = tonumber(lines[1])
  if seen > now then
    -- The clock was set back: the gateway's silence is counted from now on.
    seen, lines[1] = now, text(now)
    redis.call('HSET', P .. 'gateways', all[i], table.concat(lines, '\n'))
  end
  -- If a gateway had our label when we start, it has died, and we are its restart.
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
  for i = first_wanted, #ARGV do
    wants[ARGV[i]] = true
    lines[#lines + 1] = ARGV[i]
  end
  live[me] = wants
  names[#names + 1] = me
  redis.call('HSET', P .. 'gateways', me, table.concat(lines, '\n'))
end
table.sort(names)
if #names > 1 then redis.call('HSETNX', P .. 'state', 'several', '1') end

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

-- Each peer has one gateway that delivers to it, chosen among the live ones that know the peer.
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
  if owner == me and chosen ~= me and not leaves and not given_up[peer] then
    -- It first ends what is under way; otherwise an older message might arrive after one that the next owner delivers.
    owner = 'give up'
  elseif not stays and chosen ~= owner then
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
local died, unread, mail_expired = {}, {}, 0
local function expired(key, ttl, act)
  local damaged = 0
  while ttl > 0 and budget > 0 and damaged < MAX_DAMAGED do
    local page = redis.call('ZRANGE', key, damaged, damaged + 9)
    if not page[1] then return end
    for _, seq in ipairs(page) do
      local m = head(seq)
      if m then
        if not is_expired(m, ttl, time) then return end
        -- Damaged messages expire with the first readable one behind them.
        for _, older in ipairs(redis.call('ZRANGE', key, 0, damaged)) do act(older, head(older)) end
        budget = budget - damaged - 1
        damaged = 0
        break
      end
      damaged = damaged + 1
    end
  end
end

-- Messages that were read expire MESSAGE_TTL after their first read.
local function expire_read()
  while message_ttl > 0 and budget > 0 do
    local page = redis.call('ZRANGE', P .. 'read', 0, math.min(budget, 100) - 1, 'WITHSCORES')
    if not page[1] then return end
    for i = 1, #page, 2 do
      local seq = page[i]
      if not is_past(math.floor(tonumber(page[i + 1])), message_ttl, time) then return end
      if end_mail(seq, head(seq)) then
        mail_expired = mail_expired + 1
      else
        -- A gateway of an older version ended it.
        forget_reads(seq)
      end
    end
    budget = budget - #page / 2
  end
end

-- Messages that have been unread for UNREAD_TTL become dead letters. Messages come in the order of their times; up to
-- `unread_from` all that are still there were read, and a message that was read never becomes unread again. So each is passed
-- once.
local function expire_unread()
  local from, damaged = redis.call('HGET', P .. 'state', 'unread_from') or '0', {}
  local begun, at = from, from
  local function die(seq, m)
    if not bury_mail(seq, m, dead_max) then return end
    unread[#unread + 1] = { seq, m and m.party or '', m and text(m.class) or '', m and m.id or '', m and text(m.len) or '0' }
  end
  local is_done = unread_ttl == 0
  while not is_done and budget > 0 and #damaged < MAX_DAMAGED do
    local page = redis.call('ZRANGEBYSCORE', P .. 'mail', '(' .. at, '+inf', 'LIMIT', 0, 10)
    is_done = not page[1]
    for _, seq in ipairs(page) do
      local m, was_read = head(seq), read_at(seq)
      if m and not is_expired(m, unread_ttl, time) then
        is_done = true
        break
      end
      at = seq
      if not m and not was_read then
        damaged[#damaged + 1] = seq
      elseif m then
        -- Damaged messages expire with the first readable one behind them.
        for _, older in ipairs(damaged) do die(older, nil) end
        budget = budget - #damaged - 1
        damaged = {}
        if not was_read then die(seq, m) end
      end
      if not damaged[1] then from = at end
    end
  end
  if from ~= begun then redis.call('HSET', P .. 'state', 'unread_from', from) end
end

-- Removes entries of messages that a gateway of an older version ended, or that were damaged, once they are the oldest of their
-- list.
local function sweep_lists()
  local looks = 500
  for _, sender in ipairs(redis.call('SMEMBERS', P .. 'senders')) do
    local page, stale
    repeat
      page, stale = redis.call('ZRANGE', list_key(sender), 0, 2), {}
      for _, member in ipairs(page) do
        if not redis.call('ZSCORE', P .. 'mail', text(listed_seq(member))) then stale[#stale + 1] = member end
      end
      if stale[1] then redis.call('ZREM', list_key(sender), unpack(stale)) end
      looks = looks - #page
    until not page[1] or #stale < #page or looks <= 0
  end
end

-- Whether there are messages in the mailbox that are not listed, because an older version kept them.
local function is_unlisted()
  local state = redis.call('HMGET', P .. 'state', 'named', 'seq')
  if (state[1] or '0') == (state[2] or '0') then return 0 end
  local first = redis.call('ZRANGEBYSCORE', P .. 'mail', '(' .. (state[1] or '0'), '+inf', 'LIMIT', 0, 1)[1]
  if first then return 1 end
  redis.call('HSET', P .. 'state', 'named', state[2] or '0')
  return 0
end

local unlisted = 0
if not leaves and redis.call('HGET', P .. 'state', 'keeper') == me then
  sweep_lists()
  if refused == '' then unlisted = is_unlisted() end
end
if not leaves then
  -- Letters that an earlier script left.
  trim_letters(dead_max)
  if #letters_gone == MAX_GONE then budget = 0 end
  expire_read()
  expire_unread()
  for _, peer in ipairs(peers) do
    expired(P .. 'pend:' .. peer, send_ttl, function(seq, m)
      bury(peer, seq, '0', dead_max)
      died[#died + 1] = { seq, peer, m and m.id or '', m and text(m.len) or '0' }
    end)
  end
end

-- Chunks that came through a gateway that is gone no longer take room, nor do those that expired.
for _, token in ipairs(redis.call('HKEYS', P .. 'coming')) do
  local body = body_key(token)
  local ttl = redis.call('TTL', body)
  if ttl < 0 or not live[string.sub(token, 1, 16)] then
    if ttl >= 0 then redis.call('UNLINK', body) end
    redis.call('HDEL', P .. 'coming', token)
  end
end
settle_space()
publish()
local waiting = 0
for i, peer in ipairs(peers) do
  local messages = redis.call('ZCARD', P .. 'pend:' .. peer)
  -- If nothing is pending, it takes no room, whatever was counted.
  if messages == 0 then redis.call('HDEL', P .. 'sizes', peer) end
  waiting = waiting + messages
  counts[i] = { peer, owners[i], messages, text(figure('sizes', peer)) }
end
local mailbox, dead = redis.call('ZCARD', P .. 'mail'), redis.call('ZCARD', P .. 'dead')
if waiting + mailbox + dead == 0 and redis.call('HGET', P .. 'state', 'used') ~= '0' then
  redis.call('HSET', P .. 'state', 'used', '0')
end
return {
  counts, died, letters_gone, budget, mailbox, dead, text(time), text(figure('state', 'used')), mail_expired, refused,
  redis.call('HGETALL', P .. 'settings'), redis.call('SMEMBERS', P .. 'paused'), unread, unlisted,
}
