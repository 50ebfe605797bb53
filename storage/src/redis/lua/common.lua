-- Shared by all scripts: it is put before each of them. docs/redis.md describes the keys and the record.
--
-- KEYS[1] is the beginning of all keys of the party, 'petnet:{PARTY}:'. Its braces keep them in one slot of a cluster. A script
-- reads and checks before its first write: Redis rolls nothing back. The first write shows whether it may write at all
-- (read-only, no memory left, replicas missing); in a script that must work even without memory, it is a deletion.
local P = KEYS[1]
-- The last argument of every script: service time as the caller knows it; for a heartbeat, the seconds that it adds.
local LATER = tonumber(table.remove(ARGV))

-- Maximum length of the part of a record that precedes the payload.
local HEAD = 88 + 18 + 128 + 1024 + 32
-- Bytes that a message counts for in addition to its content.
local OVERHEAD = 400
local CHUNK = 262144
local MAX_RANGES = 65536
local MAX_INCARNATIONS = 4096
-- Number of the newest keys of sends that are remembered, and for how long after the last one (s).
local MAX_KEYS = 65536
local KEYS_KEPT = 604800
local NO_INCARNATION = string.rep('0', 32)
local NO_NUMBER = string.rep('0', 16)

-- Zero is added because of -0.
local function text(n) return string.format('%.0f', n + 0) end
local function record_key(seq) return P .. 'm:' .. seq end
local function body_key(token) return P .. 'body:' .. token end

-- Seconds of service time, shared by all gateways.
local function service_time()
  return math.max(tonumber(redis.call('HGET', P .. 'state', 'time') or '0'), LATER)
end

-- Bytes of large messages that are still being uploaded, through all gateways.
local function coming_bytes()
  local all = 0
  for _, bytes in ipairs(redis.call('HVALS', P .. 'coming')) do all = all + tonumber(bytes) end
  return all
end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Parts of what the gateway made of a message: checksum, class, kind, length, party, id, then content or token.
local function parse(made)
  if #made < 18 then return nil end
  local class, kind, len, party_len, id_len = struct.unpack('>BBI8HH', made, 5)
  local rest = 19 + party_len + id_len
  local m = { class = class, kind = kind, len = len, rest = rest, crc = string.sub(made, 1, 4) }
  m.party = string.sub(made, 19, 18 + party_len)
  m.id = string.sub(made, 19 + party_len, rest - 1)
  if kind == 1 then m.token = string.sub(made, rest, rest + 31) end
  m.field = m.party .. '\0' .. m.id
  m.cost = len + party_len + id_len + OVERHEAD
  return m
end

-- The checksum of the facts and of everything that the gateway made except the payload.
local function check(facts, made, m)
  return string.sub(redis.sha1hex(facts .. string.sub(made, 1, m.rest - 1 + m.kind * 32)), 1, 8)
end

-- What the first HEAD bytes of a record say; nil if they are damaged.
local function read_head(h)
  if #h < 106 then return nil end
  local made = string.sub(h, 89)
  local m = parse(made)
  if check(string.sub(h, 1, 80), made, m) ~= string.sub(h, 81, 88) then return nil end
  m.number = string.sub(h, 17, 32)
  m.time = tonumber(string.sub(h, 33, 48), 16)
  m.incarnation = string.sub(h, 49, 80)
  return m
end

-- The record without its payload; nil if it is gone or damaged.
local function head(seq) return read_head(redis.call('GETRANGE', record_key(seq), 0, HEAD - 1)) end

local function record(seq, number, time, incarnation, made, m)
  local facts = string.format('%016x', seq) .. number .. string.format('%016x', time) .. incarnation
  return facts .. check(facts, made, m) .. made
end

-- Service time is cut to whole seconds, so part of a second may be missing from a TTL: one more second is needed so that nothing
-- ends early. If several gateways work or have worked here, the one that says when a message came may be behind the one that
-- keeps the time: by its silence, 6 s at most, plus what both cut off.
local BEHIND = 8
local behind
local function is_past(since, ttl, now)
  behind = behind or (redis.call('HEXISTS', P .. 'state', 'several') == 1 and BEHIND or 0)
  return since + ttl + behind < now
end

local function is_expired(m, ttl, now) return ttl > 0 and is_past(m.time, ttl, now) end

-- Service time at which a message was first read; nil if it is unread.
local function read_at(seq)
  local at = redis.call('ZSCORE', P .. 'read', seq)
  return at and math.floor(tonumber(at)) or nil
end

-- Whether a message in the mailbox has expired: MESSAGE_TTL after it was first read. An unread one stays until it is a dead
-- letter.
local function is_over(seq, ttl, now)
  local at = ttl > 0 and read_at(seq)
  return at and is_past(at, ttl, now)
end

-- The messages of a sender in the mailbox, by the beginnings of their ids. A member of this sorted set consists of the place in
-- the order of arrival in 10 hexadecimal digits, LISTED sequences to a place; the id; the byte FE, which occurs in no UTF-8; and
-- 4 digits for the position within the place. So ids with a common beginning are found place by place, in order of arrival
-- except within a place. Entries are hints: one counts only if the message is in the mailbox. All messages up to the sequence
-- `named` in the state have an entry; after that, gateways of an older version may have left out some. A larger place means
-- fewer searches if few ids have the beginning, and more to put in order if many do.
local LISTED = 16384
local function list_key(party) return P .. 'names:' .. party end
local function listed_as(seq, id)
  local n = tonumber(seq)
  return string.format('%010x', math.floor(n / LISTED)) .. id .. string.format('\254%04x', n % LISTED)
end
-- The place of an entry, its position within the place, and its sequence.
local function listed_place(member) return tonumber(string.sub(member, 1, 10), 16) end
local function listed_in_place(member) return tonumber(string.sub(member, -4), 16) end
local function listed_seq(member) return listed_place(member) * LISTED + listed_in_place(member) end

-- Entries that a script adds and removes, by sender: `settle_space` writes them all at once.
local entries, gone_entries = {}, {}
local function note_entry(all, seq, m)
  local of = all[m.party] or {}
  all[m.party] = of
  of[#of + 1] = listed_as(seq, m.id)
end
local function list(seq, m) note_entry(entries, seq, m) end
local function unlist(seq, m) note_entry(gone_entries, seq, m) end

local function write_entries()
  for party, all in pairs(entries) do
    for i = 1, #all, 500 do
      local some = {}
      for j = i, math.min(i + 499, #all) do
        some[#some + 1] = 0
        some[#some + 1] = all[j]
      end
      redis.call('ZADD', list_key(party), unpack(some))
    end
  end
  -- Afterwards, so that what came and ended in one script is not there.
  for party, all in pairs(gone_entries) do
    for i = 1, #all, 1000 do
      redis.call('ZREM', list_key(party), unpack(all, i, math.min(i + 999, #all)))
    end
  end
end

-- What a script frees, removes, and adds to the bytes pending for each peer: `settle_space` writes it once for all messages.
-- Every script that takes or ends a message calls that before it answers.
local freed, unlinked, sized = 0, {}, {}

local function add_size(peer, bytes) sized[peer] = (sized[peer] or 0) + bytes end

-- Removes the record and what it holds. Nothing in the script reads it again.
local function drop(seq, m)
  if m then
    freed = freed + m.cost
    if m.kind == 1 then redis.call('UNLINK', body_key(m.token)) end
  end
  unlinked[#unlinked + 1] = record_key(seq)
end

local events = {}
-- type: a arrived, p pending, d delivered, o dropped, r released; z the operator paused or resumed a peer, y wants an attempt.
local function note(type, seq, m)
  events[#events + 1] = struct.pack('>c1I8I8BHH', type, seq, m.len, m.class, #m.party, #m.id) .. m.party .. m.id
end

-- Tells all gateways what happened; without events, only that news still flow.
local function publish()
  local n
  if #events > 0 then
    n = redis.call('HINCRBY', P .. 'state', 'news', 1)
  else
    n = tonumber(redis.call('HGET', P .. 'state', 'news') or '0')
  end
  redis.call('PUBLISH', P .. 'news', struct.pack('>I8', n) .. table.concat(events))
end

-- A figure in a hash. Whatever a damaged or torn write did to it, it stops nothing: it is never below zero.
local function figure(hash, field) return math.max(tonumber(redis.call('HGET', P .. hash, field) or '0') or 0, 0) end

local function settle_space()
  write_entries()
  -- Lua limits the number of arguments of a call.
  for i = 1, #unlinked, 1000 do
    redis.call('UNLINK', unpack(unlinked, i, math.min(i + 999, #unlinked)))
  end
  for peer, bytes in pairs(sized) do
    if bytes ~= 0 then redis.call('HINCRBY', P .. 'sizes', peer, text(bytes)) end
  end
  if freed ~= 0 then redis.call('HINCRBY', P .. 'state', 'used', text(-freed)) end
end

-- Ends a pending message; true if it was pending.
local function end_pending(peer, seq, type)
  if redis.call('ZREM', P .. 'pend:' .. peer, seq) == 0 then return false end
  local m = head(seq)
  if m then
    if redis.call('HGET', P .. 'out', m.field) == seq then redis.call('HDEL', P .. 'out', m.field) end
    add_size(peer, -m.len)
    if type then note(type, tonumber(seq), m) end
  end
  drop(seq, m)
  return true
end

-- Removes what is known about the reads of a message that is no longer in the mailbox.
local function forget_reads(seq)
  if redis.call('ZREM', P .. 'read', seq) == 1 then redis.call('HDEL', P .. 'reread', seq) end
end

-- Ends a message in the mailbox; true if it was there.
local function end_mail(seq, m, type)
  if redis.call('ZREM', P .. 'mail', seq) == 0 then return false end
  forget_reads(seq)
  if m then
    unlist(seq, m)
    if redis.call('HGET', P .. 'in', m.field) == seq then redis.call('HDEL', P .. 'in', m.field) end
    if type then note(type, tonumber(seq), m) end
  end
  drop(seq, m)
  return true
end

-- Dead letters by party and id: those to peers, or those of the mailbox.
local function letters_of(m) return P .. (m.class == 0 and 'letters' or 'unread') end

local function drop_letter(seq)
  if redis.call('ZREM', P .. 'dead', seq) == 0 then return nil end
  local m = head(seq)
  redis.call('HDEL', P .. 'why', seq)
  redis.call('HDEL', P .. 'died', seq)
  -- For a damaged letter, this says how long it was.
  local len = redis.call('ZSCORE', P .. 'lengths', seq)
  redis.call('ZREM', P .. 'lengths', seq)
  if m then
    len = m.len
    if redis.call('HGET', letters_of(m), m.field) == seq then redis.call('HDEL', letters_of(m), m.field) end
  end
  if len then redis.call('HINCRBY', P .. 'state', 'dead_bytes', text(-tonumber(len))) end
  return m or {}
end

-- Maximum number of dead letters beyond the limit that one script drops; the next heartbeat drops more.
local MAX_GONE = 1000
-- The letters that this script dropped: sequence, receiver, id, length.
local letters_gone = {}

local function let_go(seq)
  local m = head(seq)
  local why = redis.call('HGET', P .. 'why', seq) or ''
  drop_letter(seq)
  drop(seq, m)
  letters_gone[#letters_gone + 1] = { seq, string.match(why, '%z([^%z]*)$') or '', m and m.id or '', m and text(m.len) or '0' }
end

-- Of the letters that are each larger than the limit, the newest stays, in addition to the others. Returns it and its length.
local function keep_large(max_bytes, last)
  local kept, kept_len, all
  repeat
    all = redis.call('ZRANGEBYSCORE', P .. 'lengths', '(' .. text(max_bytes), '+inf', 'WITHSCORES', 'LIMIT', 0, 100)
    local times, others = {}, {}
    local function is_newer(a, b)
      if a == last or b == last then return a == last end
      if times[a] ~= times[b] then return times[a] > times[b] end
      return tonumber(a) > tonumber(b)
    end
    kept = nil
    for i = 1, #all, 2 do
      local seq = all[i]
      times[seq] = tonumber(redis.call('HGET', P .. 'died', seq) or '0')
      if not redis.call('ZSCORE', P .. 'dead', seq) then
        -- A gateway of an older version dropped it.
        redis.call('ZREM', P .. 'lengths', seq)
      elseif not kept or is_newer(seq, kept) then
        if kept then others[#others + 1] = kept end
        kept, kept_len = seq, tonumber(all[i + 1])
      else
        others[#others + 1] = seq
      end
    end
    for _, seq in ipairs(others) do let_go(seq) end
  until #all <= 2 or #letters_gone >= MAX_GONE
  return kept, kept and kept_len or 0
end

-- Keeps dead letters within the limit by dropping the oldest. The newest one is never dropped; one larger than the whole limit
-- is not counted, and stays until the next such one.
local function trim_letters(max_bytes)
  local state = redis.call('HMGET', P .. 'state', 'dead_bytes', 'last_letter')
  if max_bytes == 0 or tonumber(state[1] or '0') <= max_bytes then return end
  local last = state[2]
  local large, large_len = keep_large(max_bytes, last)
  while #letters_gone < MAX_GONE
    and tonumber(redis.call('HGET', P .. 'state', 'dead_bytes') or '0') - large_len > max_bytes do
    local oldest
    for _, seq in ipairs(redis.call('ZRANGE', P .. 'dead', 0, 2)) do
      if seq ~= large and seq ~= last then
        oldest = seq
        break
      end
    end
    if not oldest then
      -- Damaged letters that were dropped could not say how long they were.
      local m = last and last ~= large and redis.call('ZSCORE', P .. 'dead', last) and head(last)
      redis.call('HSET', P .. 'state', 'dead_bytes', text(large_len + (m and m.len or 0)))
      break
    end
    let_go(oldest)
  end
end

-- Keeps a message as a dead letter; beyond the limit the oldest letters are dropped.
local function keep_letter(seq, m, why, party, max_bytes)
  if m then
    redis.call('HSET', letters_of(m), m.field, seq)
    redis.call('HINCRBY', P .. 'state', 'dead_bytes', text(m.len))
    redis.call('ZADD', P .. 'lengths', text(m.len), seq)
  end
  redis.call('HSET', P .. 'state', 'last_letter', seq)
  redis.call('ZADD', P .. 'dead', seq, seq)
  redis.call('HSET', P .. 'why', seq, why .. '\0' .. party)
  redis.call('HSET', P .. 'died', seq, text(service_time()))
  trim_letters(max_bytes)
end

-- Makes a pending message a dead letter. Returns false if it was no longer pending.
local function bury(peer, seq, why, max_bytes)
  if redis.call('ZREM', P .. 'pend:' .. peer, seq) == 0 then return false end
  local m = head(seq)
  if m then
    if redis.call('HGET', P .. 'out', m.field) == seq then redis.call('HDEL', P .. 'out', m.field) end
    add_size(peer, -m.len)
  end
  keep_letter(seq, m, why, peer, max_bytes)
  return true
end

-- Makes an unread message of the mailbox a dead letter. Returns false if it was no longer there.
local function bury_mail(seq, m, max_bytes)
  if redis.call('ZREM', P .. 'mail', seq) == 0 then return false end
  if m then
    unlist(seq, m)
    if redis.call('HGET', P .. 'in', m.field) == seq then redis.call('HDEL', P .. 'in', m.field) end
  end
  -- '3': it expired unread; '4': it is damaged and unread.
  keep_letter(seq, m, m and '3' or '4its record in Redis cannot be read', m and m.party or '', max_bytes)
  return true
end

-- Fields of an id in the index of the mailbox: of all senders ('*') or of one ('=' and its name).
local function fields_of(from, id)
  if string.sub(from, 1, 1) == '=' then return { string.sub(from, 2) .. '\0' .. id } end
  local fields = {}
  for i, sender in ipairs(redis.call('SMEMBERS', P .. 'senders')) do fields[i] = sender .. '\0' .. id end
  return fields
end

-- The messages in the mailbox with an id, newest first, each with its sequence; expired ones no longer count.
local function found(from, id, ttl)
  local now = service_time()
  local all = {}
  for _, field in ipairs(fields_of(from, id)) do
    local seq = redis.call('HGET', P .. 'in', field)
    local m = seq and head(seq)
    -- A damaged message is found, so that the damage is reported to its reader.
    local is_there = m and not is_over(seq, ttl, now)
    if seq and (is_there or (not m and redis.call('ZSCORE', P .. 'mail', seq))) then
      local party = string.sub(field, 1, -#id - 2)
      all[#all + 1] = { seq = seq, n = tonumber(seq), m = m, party = party, age = m and math.max(now - m.time, 0) or 0 }
    end
  end
  table.sort(all, function(a, b) return a.n > b.n end)
  return all
end
