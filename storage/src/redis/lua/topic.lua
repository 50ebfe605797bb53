-- Messages in the mailbox whose ids begin with a prefix. ARGV: whose, prefix, after, maximum matches, maximum looks,
-- MESSAGE_TTL. Returns the sequence up to which it looked, or nothing if it saw all; then sequence, length, sender, class, id, 1
-- if it is unread, and age in seconds of each.
local from, prefix, after, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[6])
local matches, looks = tonumber(ARGV[4]), tonumber(ARGV[5])
-- No sequence is that high.
if after >= 9007199254740992 then return { '', {} } end
local now = service_time()
local all = {}
-- The cost of a search in a list, of an entry in one, and of a message that is passed over; a look at a message costs 1.
local SEEK, LISTING, PASS = 0.5, 0.005, 0.1
-- If a place has more matches than MANY, the next ones are searched for among all messages, as many as NEAR of them.
local MANY, NEAR = 2048, 800
-- Up to this many entries are put in order by sorting.
local FEW = 500

-- Looks at a message, if it is one; returns true if that is enough.
local function look(seq)
  looks = looks - 1
  local m = seq and head(seq)
  if m and string.sub(m.id, 1, #prefix) == prefix and not is_over(seq, ttl, now)
    and (from == '*' or from == '=' .. m.party) then
    all[#all + 1] = { seq, text(m.len), m.party, m.class, m.id, read_at(seq) and 0 or 1, text(math.max(now - m.time, 0)) }
  end
  return #all == matches or looks <= 0
end

-- Looks at all messages that came after. Returns the sequence up to which it looked, or an empty text if it saw all.
local function look_at_all()
  local sequences = redis.call('ZRANGEBYSCORE', P .. 'mail', '(' .. text(after), '+inf', 'LIMIT', 0, math.ceil(looks))
  for _, seq in ipairs(sequences) do
    if look(seq) then return seq end
  end
  return ''
end

-- Whether a message may match, as far as that can be checked cheaply: nothing else is read of one that does not.
local function may_be_meant(seq)
  local made = redis.call('GETRANGE', record_key(seq), 88, 88 + 18 + 128 + #prefix - 1)
  if #made < 18 then return false end
  local high, low = string.byte(made, 15, 16)
  local id = 19 + high * 256 + low
  return string.sub(made, id, id + #prefix - 1) == prefix and (from == '*' or from == '=' .. string.sub(made, 19, id - 1))
end

local function begins_with(place) return string.format('%010x', place) .. prefix end

-- The first place of a list, from one place on and before another, with entries that have the prefix, and true; otherwise a
-- place before which there is none, and false. Returns nothing if the list has no more.
local function next_place(list, place, stop)
  while place < stop do
    looks = looks - SEEK
    local begins = begins_with(place)
    local first = redis.call('ZRANGEBYLEX', list, '[' .. begins, '+', 'LIMIT', 0, 1)[1]
    if not first then return nil end
    if string.sub(first, 1, #begins) == begins then return place, true end
    place = math.max(place + 1, listed_place(first))
  end
  return place, false
end

-- Looks at the entries of lists in a place, all lists together, up to a sequence. If that is enough, returns the sequence up to
-- which it looked.
local function look_at_place(place, lists, last)
  local begins = begins_with(place)
  local from_member, to_member = '[' .. begins, '(' .. begins .. '\255'
  local count = 0
  for _, list in ipairs(lists) do
    looks = looks - SEEK
    count = count + redis.call('ZLEXCOUNT', list, from_member, to_member)
  end
  if count > MANY then
    -- The next matches are near. If they are not, the lists say where they are, unless little of the place is left.
    local most = last - after < count / 2 and LISTED or NEAR
    local near = redis.call('ZRANGEBYSCORE', P .. 'mail', '(' .. text(after), text(last), 'LIMIT', 0, most)
    for _, seq in ipairs(near) do
      looks = looks - PASS
      if may_be_meant(seq) and look(seq) then return seq end
    end
    if #near < most then return nil end
    after = tonumber(near[most])
  end
  looks = looks - count * LISTING
  -- By sequence, counted from the first of the place.
  local members, order, first = {}, {}, place * LISTED
  local begin = after + 1 - first
  for _, list in ipairs(lists) do
    for _, member in ipairs(redis.call('ZRANGEBYLEX', list, from_member, to_member)) do
      local n = listed_in_place(member)
      if n >= begin then members[n] = member end
    end
  end
  if count > FEW then
    -- Sorting many takes longer than asking for each number whether it is there.
    for n = math.max(begin, 0), last - first do
      if members[n] then order[#order + 1] = n end
    end
  else
    for n in pairs(members) do
      if first + n <= last then order[#order + 1] = n end
    end
    table.sort(order)
  end
  -- What has been paid for is used: at least a page of it is looked at.
  looks = math.max(looks, matches - #all)
  for _, n in ipairs(order) do
    local seq = text(first + n)
    local is_there = redis.call('ZSCORE', P .. 'mail', seq)
    if not is_there then
      -- A gateway of an older version ended it. If nothing may be written, the entry stays.
      for _, list in ipairs(lists) do redis.pcall('ZREM', list, members[n]) end
    end
    if look(is_there and seq) then return seq end
  end
end

-- Looks at the entries of the lists, up to a sequence, place by place. Returns the same as `look_at_all`.
local function look_at_lists(named)
  local lists, places, has = {}, {}, {}
  for i, sender in ipairs(from == '*' and redis.call('SMEMBERS', P .. 'senders') or { string.sub(from, 2) }) do
    lists[i] = list_key(sender)
    places[i] = math.floor((after + 1) / LISTED)
  end
  while true do
    local low
    for i = 1, #lists do
      if places[i] and (not low or places[i] < low) then low = places[i] end
    end
    if not low or low * LISTED > named then return '' end
    if looks <= 0 then return text(low * LISTED - 1) end
    -- Each list is searched some places ahead, since consecutive searches in one list cost less than one in each; by at least
    -- one place per call, whatever that costs, so that there is progress.
    local stop = low + math.max(1, math.floor(looks / SEEK / #lists))
    for i = 1, #lists do
      if places[i] and not has[i] then places[i], has[i] = next_place(lists[i], places[i], stop) end
    end
    -- The first place of all; it is looked at once every list has been searched up to it, and not before.
    local place, is_there
    for i = 1, #lists do
      if places[i] and (not place or places[i] < place) then
        place, is_there = places[i], has[i]
      elseif places[i] and places[i] == place then
        is_there = is_there and has[i]
      end
    end
    if is_there and place * LISTED <= named then
      local those = {}
      for i = 1, #lists do
        if places[i] == place then
          those[#those + 1] = lists[i]
          places[i], has[i] = place + 1, false
        end
      end
      after = math.max(after, place * LISTED - 1)
      local up_to = look_at_place(place, those, math.min((place + 1) * LISTED - 1, named))
      if up_to then return up_to end
    end
  end
end

local up_to = ''
if from ~= '*' or prefix ~= '' then
  local named = tonumber(redis.call('HGET', P .. 'state', 'named') or '0')
  if after < named then
    up_to = look_at_lists(named)
    if up_to == '' then after = named end
  end
end
if up_to == '' then up_to = looks > 0 and look_at_all() or text(after) end
return { up_to, all }
