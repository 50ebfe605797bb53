-- What all scripts share; it stands before each of them. docs/redis.md draws the keys and the record.
--
-- KEYS[1] is the beginning of all keys of the party, 'petnet:{PARTY}:'. Its braces keep them in one slot of a cluster.
-- A script reads and checks before its first write: Redis rolls nothing back. Its first write tells whether it may write
-- at all (read-only, no memory left, replicas missing); where it must go on without memory, that is a deletion.
local P = KEYS[1]
-- The last argument of every script: service time as the caller knows it; for a heartbeat the seconds that it adds.
local LATER = tonumber(table.remove(ARGV))

-- Bytes of a record that hold everything but the payload, at most.
local HEAD = 88 + 18 + 128 + 1024 + 32
-- Bytes that a message counts for besides its content.
local OVERHEAD = 400
local CHUNK = 262144
local MAX_RANGES = 65536
local MAX_INCARNATIONS = 4096
local NO_INCARNATION = string.rep('0', 32)
local NO_NUMBER = string.rep('0', 16)

-- Zero is added for the sake of -0.
local function text(n) return string.format('%.0f', n + 0) end
local function record_key(seq) return P .. 'm:' .. seq end
local function body_key(token) return P .. 'body:' .. token end

-- Seconds of service time, shared by all gateways.
local function service_time()
  return math.max(tonumber(redis.call('HGET', P .. 'state', 'time') or '0'), LATER)
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
  local m = { class = class, kind = kind, len = len, rest = rest }
  m.party = string.sub(made, 19, 18 + party_len)
  m.id = string.sub(made, 19 + party_len, rest - 1)
  if kind == 1 then m.token = string.sub(made, rest, rest + 31) end
  m.field = m.party .. '\0' .. m.id
  m.cost = len + party_len + id_len + OVERHEAD
  return m
end

-- The checksum of the facts, and of all that the gateway made but the payload.
local function check(facts, made, m)
  return string.sub(redis.sha1hex(facts .. string.sub(made, 1, m.rest - 1 + m.kind * 32)), 1, 8)
end

-- What the first HEAD bytes of a record say; nil when they are damaged.
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

-- The record without its payload; nil when it is gone or damaged.
local function head(seq) return read_head(redis.call('GETRANGE', record_key(seq), 0, HEAD - 1)) end

local function record(seq, number, time, incarnation, made, m)
  local facts = string.format('%016x', seq) .. number .. string.format('%016x', time) .. incarnation
  return facts .. check(facts, made, m) .. made
end

local function is_expired(m, ttl, now) return ttl > 0 and m.time + ttl <= now end

-- What a script frees, takes away, and adds to the bytes that are pending for each peer: `settle_space` writes it, once for
-- all messages. Every script that ends a message calls that before it answers.
local freed, unlinked, sized = 0, {}, {}

local function add_size(peer, bytes) sized[peer] = (sized[peer] or 0) + bytes end

-- Takes the record away, and what it holds. Nothing in the script reads it again.
local function drop(seq, m)
  if m then
    freed = freed + m.cost
    if m.kind == 1 then redis.call('UNLINK', body_key(m.token)) end
  end
  unlinked[#unlinked + 1] = record_key(seq)
end

local events = {}
-- type: a arrived, p pending, d delivered, o dropped, r released.
local function note(type, seq, m)
  events[#events + 1] = struct.pack('>c1I8I8BHH', type, seq, m.len, m.class, #m.party, #m.id) .. m.party .. m.id
end

-- Tells all gateways what happened; without events only that news flow.
local function publish()
  local n
  if #events > 0 then
    n = redis.call('HINCRBY', P .. 'state', 'news', 1)
  else
    n = tonumber(redis.call('HGET', P .. 'state', 'news') or '0')
  end
  redis.call('PUBLISH', P .. 'news', struct.pack('>I8', n) .. table.concat(events))
end

local function settle_space()
  -- Lua passes only so many arguments at once.
  for i = 1, #unlinked, 1000 do
    redis.call('UNLINK', unpack(unlinked, i, math.min(i + 999, #unlinked)))
  end
  for peer, bytes in pairs(sized) do
    if bytes ~= 0 then redis.call('HINCRBY', P .. 'sizes', peer, text(bytes)) end
  end
  if freed ~= 0 then redis.call('HINCRBY', P .. 'state', 'used', text(-freed)) end
end

-- Ends a pending message; true when it was one.
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

-- Ends a message in the mailbox; true when it was one.
local function end_mail(seq, m, type)
  if redis.call('ZREM', P .. 'mail', seq) == 0 then return false end
  if m then
    if redis.call('HGET', P .. 'in', m.field) == seq then redis.call('HDEL', P .. 'in', m.field) end
    if type then note(type, tonumber(seq), m) end
  end
  drop(seq, m)
  return true
end

local function drop_letter(seq)
  if redis.call('ZREM', P .. 'dead', seq) == 0 then return nil end
  local m = head(seq)
  redis.call('HDEL', P .. 'why', seq)
  if m then
    if redis.call('HGET', P .. 'letters', m.field) == seq then redis.call('HDEL', P .. 'letters', m.field) end
    redis.call('HINCRBY', P .. 'state', 'dead_bytes', text(-m.len))
  end
  return m or {}
end

-- Makes a pending message a dead letter; the oldest letters go beyond the bound. Gives how many went.
local function bury(peer, seq, why, max_bytes)
  if redis.call('ZREM', P .. 'pend:' .. peer, seq) == 0 then return nil end
  local m = head(seq)
  if m then
    if redis.call('HGET', P .. 'out', m.field) == seq then redis.call('HDEL', P .. 'out', m.field) end
    add_size(peer, -m.len)
    redis.call('HSET', P .. 'letters', m.field, seq)
    redis.call('HINCRBY', P .. 'state', 'dead_bytes', text(m.len))
  end
  redis.call('ZADD', P .. 'dead', seq, seq)
  redis.call('HSET', P .. 'why', seq, why .. '\0' .. peer)
  local gone = 0
  while max_bytes > 0 and tonumber(redis.call('HGET', P .. 'state', 'dead_bytes') or '0') > max_bytes do
    local oldest, next = unpack(redis.call('ZRANGE', P .. 'dead', 0, 1))
    if not oldest then break end
    local h = head(oldest)
    if not next then
      -- Damaged ones that went could not say how long they were.
      redis.call('HSET', P .. 'state', 'dead_bytes', text(h and h.len or 0))
      if not h or h.len <= max_bytes then break end
    end
    drop_letter(oldest)
    drop(oldest, h)
    gone = gone + 1
  end
  return gone
end

-- Fields of an id in the index of the mailbox: of any sender ('*') or of one ('=' and its name).
local function fields_of(from, id)
  if string.sub(from, 1, 1) == '=' then return { string.sub(from, 2) .. '\0' .. id } end
  local fields = {}
  for i, sender in ipairs(redis.call('SMEMBERS', P .. 'senders')) do fields[i] = sender .. '\0' .. id end
  return fields
end

-- What is in the mailbox under an id, newest first, each with its sequence; expired ones are not there any more.
local function found(from, id, ttl)
  local now = service_time()
  local all = {}
  for _, field in ipairs(fields_of(from, id)) do
    local seq = redis.call('HGET', P .. 'in', field)
    local m = seq and head(seq)
    -- A damaged one is found: its reader is told.
    local is_there = m and not is_expired(m, ttl, now)
    if seq and (is_there or (not m and redis.call('EXISTS', record_key(seq)) == 1)) then
      all[#all + 1] = { seq = seq, n = tonumber(seq), m = m }
    end
  end
  table.sort(all, function(a, b) return a.n > b.n end)
  return all
end
