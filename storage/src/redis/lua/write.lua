-- Takes messages: accepted ones and arrivals. One call is one operation of one gateway, and its results are kept under the
-- gateway's name until its next operation: if the call is sent again, it changes nothing and returns the same.
--
-- ARGV: gateway, number of the operation, latest time for it (ms of Redis's clock), incarnation, MESSAGE_TTL (s),
-- STORE_MAX_BYTES, reject (0 or 1), then two per message: what the gateway made of it, and the delivery's identity (incarnation,
-- number, number + 1, low-water mark; 32 and 3 x 16 hexadecimal digits), or nothing, or 'dead' and a sequence; for a message to
-- be sent, the key of the send and the checksum of the content (32 and 8 digits; followed by '=' and a sequence if that message
-- was found to have the same bytes), or nothing, or '-' if it has already been compared with what is pending.
local me, op, latest, incarnation = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local message_ttl, max_bytes, reject = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local count = (#ARGV - 7) / 2

local last = redis.call('HGET', P .. 'ops', me)
if last then
  local space = string.find(last, ' ', 1, true)
  local n = tonumber(string.sub(last, 1, space - 1))
  if n == op then return string.sub(last, space + 1) end
  if n > op then return redis.error_reply('PETNETLATE operation ' .. text(op) .. ' is over') end
end
if now_ms() > latest then return redis.error_reply('PETNETLATE the operation came after its time') end
local state = redis.call('HMGET', P .. 'state', 'incarnation', 'used', 'time', 'moving', 'locked_until', 'named')
if state[4] or (state[5] and tonumber(state[5]) > now_ms()) then
  return redis.error_reply('PETNETMOVING a migration works on the store of this party')
end
if state[1] ~= incarnation then return redis.error_reply('PETNETEPOCH another incarnation is in force') end
local used, now = tonumber(state[2] or '0'), math.max(tonumber(state[3] or '0'), LATER)

-- The first write. If the script does not reach its end, it is not known how far it got.
redis.call('HSET', P .. 'ops', me, text(op) .. ' ?')
local seq = redis.call('HINCRBY', P .. 'state', 'seq', count) - count
local came = {}

local function is_known(marks, had, inc, n)
  local mark = redis.call('HGET', marks, inc)
  if mark and n < mark then return true, mark end
  local range = redis.call('ZRANGEBYLEX', had, '[' .. n, '+', 'LIMIT', 0, 2)
  local first = range[1]
  -- Members are 'end:start'; this is the first whose end is not below n.
  if first and string.sub(first, 18) <= n and n < string.sub(first, 1, 16) then return true, mark end
  return false, mark, first, range[2]
end

-- Enters a delivery in the memory of what the sender delivered.
local function remember(who, inc, n, after, low, mark, first, second)
  local had = P .. 'had:' .. inc .. ':' .. who
  local start, finish = n, after
  if first and string.sub(first, 1, 16) == n then
    start = string.sub(first, 18)
    redis.call('ZREM', had, first)
    first = second
  end
  if first and string.sub(first, 18) == after then
    finish = string.sub(first, 1, 16)
    redis.call('ZREM', had, first)
  end
  redis.call('ZADD', had, 0, finish .. ':' .. start)
  if low > (mark or '') then
    redis.call('ZREMRANGEBYLEX', had, '-', '(' .. low .. ';')
    local next = redis.call('ZRANGE', had, 0, 0)[1]
    if next and string.sub(next, 18) <= low then
      low = string.sub(next, 1, 16)
      redis.call('ZREM', had, next)
    end
    redis.call('HSET', P .. 'marks:' .. who, inc, low)
  elseif not mark then
    redis.call('HSET', P .. 'marks:' .. who, inc, NO_NUMBER)
  end
  if not came['s' .. who .. inc] then
    came['s' .. who .. inc] = true
    local seen = P .. 'seen:' .. who
    redis.call('ZADD', seen, seq, inc)
    while redis.call('ZCARD', seen) > MAX_INCARNATIONS do
      local oldest = redis.call('ZRANGE', seen, 0, 0)[1]
      redis.call('ZREM', seen, oldest)
      redis.call('HDEL', P .. 'marks:' .. who, oldest)
      redis.call('UNLINK', P .. 'had:' .. oldest .. ':' .. who)
      -- A delivery from an incarnation that is not newer may have been delivered before.
      local floor = redis.call('HGET', P .. 'floors', who)
      if not floor or oldest > floor then redis.call('HSET', P .. 'floors', who, oldest) end
    end
  end
end

-- Whether a message may replace the one that is held: nil if so, otherwise the result.
local function reused(old, made, m)
  local held = head(old)
  if not held then return nil end
  -- The checksums cover the same parts.
  if held.len ~= m.len or held.kind ~= m.kind or (m.kind == 0 and held.crc ~= m.crc) then return 'C' end
  -- Large messages are compared by the gateway.
  if m.kind == 1 then return 'H' .. old end
  local same = string.sub(redis.call('GET', record_key(old)), 88 + held.rest) == string.sub(made, m.rest)
  return same and 'S' .. old or 'C'
end

-- Large messages that are being uploaded have their room already, through whichever gateway; this may be one of them.
local coming
local function counted(m)
  return m.kind == 1 and tonumber(redis.call('HGET', P .. 'coming', m.token) or '0') or 0
end

-- What a key names: nil if nothing, otherwise the result.
local function called(key, print)
  local known = redis.call('HGET', P .. 'sends', key)
  if not known then return nil end
  local space = string.find(known, ' ', 1, true)
  local was = string.sub(known, space + 1)
  if was == print then return 'S' .. string.sub(known, 1, space - 1) end
  return string.sub(was, 1, 16) == string.sub(print, 1, 16) and 'B' or 'I'
end

-- `n`: place of the key among the keys; the message that it names may be older.
local function remember_key(key, seq, print, n)
  redis.call('HSET', P .. 'sends', key, seq .. ' ' .. print)
  redis.call('ZADD', P .. 'sends_order', n, key)
  came.key = true
end

-- Only the newest keys are kept.
local function forget_keys()
  if not came.key then return end
  local more = redis.call('ZCARD', P .. 'sends_order') - MAX_KEYS
  while more > 0 do
    local oldest = redis.call('ZRANGE', P .. 'sends_order', 0, math.min(more, 1000) - 1)
    redis.call('ZREM', P .. 'sends_order', unpack(oldest))
    redis.call('HDEL', P .. 'sends', unpack(oldest))
    more = more - #oldest
  end
  redis.call('EXPIRE', P .. 'sends', KEYS_KEPT)
  redis.call('EXPIRE', P .. 'sends_order', KEYS_KEPT)
end

local function lacks_room(m)
  if max_bytes == 0 then return false end
  coming = coming or coming_bytes()
  return used - freed + coming - counted(m) + m.cost > max_bytes
end

local function is_whole(m)
  return m.kind == 0 or redis.call('HLEN', body_key(m.token)) == math.ceil(m.len / CHUNK)
end

local function keep(seq, number, inc, made, m)
  if m.kind == 1 then
    redis.call('PERSIST', body_key(m.token))
    if coming then coming = coming - counted(m) end
    redis.call('HDEL', P .. 'coming', m.token)
  end
  redis.call('SET', record_key(seq), record(tonumber(seq), number, now, inc, made, m))
  freed = freed - m.cost
end

-- Numbers of deliveries are reserved before they are given out, at once for all messages to a receiver; those of refused
-- messages are returned at the end, so that there are no gaps.
local wanted, taken, given = {}, {}, {}
local function next_number(party)
  if not taken[party] or given[party] == taken[party] then
    local more = math.max(wanted[party] or 0, 1)
    wanted[party] = 0
    taken[party] = redis.call('HINCRBY', P .. 'numbers', party, more)
    given[party] = taken[party] - more
  end
  given[party] = given[party] + 1
  return string.format('%016x', given[party])
end

local function accept(n, made, m, send)
  local key, print
  if #send >= 40 then
    key = string.sub(send, 1, 32)
    print = string.sub(redis.sha1hex(m.field), 1, 16) .. ' ' .. text(m.len) .. ' ' .. string.sub(send, 33, 40)
    local result = called(key, print)
    if result then return result end
    local same = string.sub(send, 42)
    if same ~= '' then
      -- Even if it has ended in the meantime: that was after its bytes were compared.
      remember_key(key, same, print, n)
      return 'S' .. same
    end
  end
  local old = redis.call('HGET', P .. 'out', m.field)
  if old then
    local result
    if reject or send == '' then result = reused(old, made, m) end
    -- Without a key, the same bytes are a repeat of the pending message; other bytes replace it.
    if result == 'C' and not reject then result = nil end
    if result then
      if key and string.sub(result, 1, 1) == 'S' then remember_key(key, old, print, n) end
      return result
    end
  end
  if lacks_room(m) then return 'F' .. text(math.max(used - freed, 0)) end
  if not is_whole(m) then return 'G' end
  local seq = text(n)
  keep(seq, next_number(m.party), incarnation, made, m)
  if old then end_pending(m.party, old) end
  redis.call('ZADD', P .. 'pend:' .. m.party, n, seq)
  redis.call('HSET', P .. 'out', m.field, seq)
  add_size(m.party, m.len)
  if not came['p' .. m.party] then
    came['p' .. m.party] = true
    redis.call('SADD', P .. 'peers', m.party)
  end
  if key then remember_key(key, seq, print, n) end
  note('p', n, m)
  return 'N' .. seq
end

local function store(n, made, m, identity)
  -- Empty if the sender did not name itself; no party has that name.
  local who = m.party
  local inc, number, known, mark, first, second = NO_INCARNATION, NO_NUMBER
  local after, low
  if identity ~= '' then
    inc, number = string.sub(identity, 1, 32), string.sub(identity, 33, 48)
    after, low = string.sub(identity, 49, 64), string.sub(identity, 65, 80)
    local had = P .. 'had:' .. inc .. ':' .. who
    known, mark, first, second = is_known(P .. 'marks:' .. who, had, inc, number)
    if known then return 'R' end
    if not mark then
      local floor = redis.call('HGET', P .. 'floors', who)
      if floor and inc <= floor then return 'T' end
    end
    local grows = (first and string.sub(first, 1, 16) == number) or (first and string.sub(first, 18) == after)
    if not grows and redis.call('ZCARD', had) >= MAX_RANGES then return 'X' end
  end
  local old = redis.call('HGET', P .. 'in', m.field)
  local held = old and head(old)
  if held and identity ~= '' and held.number ~= NO_NUMBER
    and (held.incarnation > inc or (held.incarnation == inc and held.number > number)) then
    remember(who, inc, number, after, low, mark, first, second)
    return 'O'
  end
  if held and reject and not is_over(old, message_ttl, now) then
    local result = reused(old, made, m)
    if result then
      if string.sub(result, 1, 1) == 'S' and identity ~= '' then
        remember(who, inc, number, after, low, mark, first, second)
      end
      return result
    end
  end
  if lacks_room(m) then return 'F' .. text(math.max(used - freed, 0)) end
  if not is_whole(m) then return 'G' end
  local seq = text(n)
  keep(seq, number, inc, made, m)
  if old then end_mail(old, held) end
  redis.call('ZADD', P .. 'mail', n, seq)
  list(seq, m)
  redis.call('HSET', P .. 'in', m.field, seq)
  if not came['m' .. who] then
    came['m' .. who] = true
    redis.call('SADD', P .. 'senders', m.party)
  end
  if identity ~= '' then remember(who, inc, number, after, low, mark, first, second) end
  note('a', n, m)
  return 'N' .. seq
end

-- A dead letter of the mailbox is put back, and has its whole time again. It never replaces another message.
local function put_back(n, made, m)
  local old = redis.call('HGET', P .. 'in', m.field)
  local held = old and head(old)
  if old and not is_over(old, message_ttl, now) then return 'C' end
  if lacks_room(m) then return 'F' .. text(math.max(used - freed, 0)) end
  if not is_whole(m) then return 'G' end
  local seq = text(n)
  keep(seq, m.number, m.incarnation, made, m)
  if old then end_mail(old, held) end
  redis.call('ZADD', P .. 'mail', n, seq)
  list(seq, m)
  redis.call('HSET', P .. 'in', m.field, seq)
  redis.call('SADD', P .. 'senders', m.party)
  note('a', n, m)
  return 'N' .. seq
end

-- Accepts a dead letter again.
local function revive(n, letter)
  if not redis.call('ZSCORE', P .. 'dead', letter) then return 'U' end
  local whole = redis.call('GET', record_key(letter))
  local made = whole and string.sub(whole, 89)
  -- Nothing is guessed about a damaged letter.
  local m = made and head(letter)
  if not m then return 'G' end
  freed = freed + m.cost
  local result = m.class == 0 and accept(n, made, m, '-') or put_back(n, made, m)
  local kind = string.sub(result, 1, 1)
  if kind ~= 'N' and kind ~= 'S' then
    freed = freed - m.cost
    return result
  end
  drop_letter(letter)
  redis.call('UNLINK', record_key(letter))
  if kind == 'S' then
    freed = freed - m.cost
    drop(letter, m)
  end
  return result
end

local messages, results = {}, {}
for i = 1, count do
  local m = parse(ARGV[6 + 2 * i])
  if m and m.class == 0 then wanted[m.party] = (wanted[m.party] or 0) + 1 end
  messages[i] = m or false
end
for i = 1, count do
  local made, identity, m = ARGV[6 + 2 * i], ARGV[7 + 2 * i], messages[i]
  if string.sub(identity, 1, 4) == 'dead' then
    results[i] = revive(seq + i, string.sub(identity, 5))
  elseif m.class == 0 then
    results[i] = accept(seq + i, made, m, identity)
  else
    results[i] = store(seq + i, made, m, identity)
  end
end
for party, last in pairs(taken) do
  if given[party] < last then redis.call('HINCRBY', P .. 'numbers', party, text(given[party] - last)) end
end
forget_keys()
settle_space()
-- Unless a gateway of an older version came before: then a heartbeat lists what that one left out.
if tonumber(state[6] or '0') == seq then redis.call('HSET', P .. 'state', 'named', text(seq + count)) end
local answer = table.concat(results, ' ')
redis.call('HSET', P .. 'ops', me, text(op) .. ' ' .. answer)
if #events > 0 then publish() end
return answer
