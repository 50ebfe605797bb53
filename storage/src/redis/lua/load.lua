-- Pending messages for delivery. ARGV: peer, SEND_TTL, maximum bytes of all records, sequences.
-- Returns record and low-water mark of each, or nothing for one that is no longer pending; fewer than asked for if they would be
-- too large.
local peer, send_ttl, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = service_time()
local pend, lows, all = P .. 'pend:' .. peer, {}, {}

-- Within an incarnation numbers rise in order: the lowest pending number is that of the first message.
local function low_water(m, number)
  local inc = m.incarnation
  if not lows[inc] then
    local from = redis.call('ZSCORE', P .. 'incarnations', inc)
    local first = from and redis.call('ZRANGEBYSCORE', pend, '(' .. from, '+inf', 'LIMIT', 0, 1)[1]
    local lowest = first and head(first)
    -- If the incarnation is not known, or its first message is damaged, no mark is given.
    lows[inc] = lowest and lowest.incarnation == inc and lowest.number or NO_NUMBER
  end
  return lows[inc]
end

for i = 4, #ARGV do
  local seq = ARGV[i]
  local entry = ''
  if redis.call('ZSCORE', pend, seq) then
    local whole = redis.call('GET', record_key(seq)) or ''
    local m = read_head(string.sub(whole, 1, HEAD))
    if not m or not is_expired(m, send_ttl, now) then
      room = room - #whole
      if room < 0 and i > 4 then break end
      entry = { whole, m and low_water(m) or NO_NUMBER }
    end
  end
  all[#all + 1] = entry
end
return all
