-- Keeps messages as they are. ARGV: per message sequence, fate (p pending, m mailbox, d dead letter), number, service time,
-- incarnation, what the gateway made of it, why it died, service time of the first read (0 if unread). A message that is already
-- here stays as it is.
local used, last = 0, nil
local before = redis.call('HMGET', P .. 'state', 'moved', 'named')
for i = 1, #ARGV, 8 do
  local seq, fate, number, time = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local inc, made, why, read = ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]
  local m = parse(made)
  local lists = { p = 'pend:' .. m.party, m = 'mail', d = 'dead' }
  last = seq
  if not redis.call('ZSCORE', P .. lists[fate], seq) then
    if m.kind == 1 then
      if redis.call('HLEN', body_key(m.token)) ~= math.ceil(m.len / CHUNK) then
        return redis.error_reply('PETNETMOVING chunks of message ' .. seq .. ' are missing')
      end
      redis.call('PERSIST', body_key(m.token))
    end
    redis.call('SET', record_key(seq), record(tonumber(seq), number, time, inc, made, m))
    redis.call('ZADD', P .. lists[fate], seq, seq)
    used = used + m.cost
    if fate == 'p' then
      redis.call('HSET', P .. 'out', m.field, seq)
      redis.call('HINCRBY', P .. 'sizes', m.party, text(m.len))
      redis.call('SADD', P .. 'peers', m.party)
      redis.call('ZADD', P .. 'incarnations', 'NX', tonumber(seq) - 1, inc)
    elseif fate == 'm' then
      list(seq, m)
      redis.call('HSET', P .. 'in', m.field, seq)
      redis.call('SADD', P .. 'senders', m.party)
      if read ~= '0' then redis.call('ZADD', P .. 'read', read, seq) end
    else
      redis.call('HSET', P .. 'why', seq, why .. '\0' .. m.party)
      redis.call('HSET', letters_of(m), m.field, seq)
      if m.class ~= 0 then redis.call('SADD', P .. 'senders', m.party) end
      redis.call('HINCRBY', P .. 'state', 'dead_bytes', text(m.len))
      redis.call('ZADD', P .. 'lengths', text(m.len), seq)
    end
  end
end
redis.call('HINCRBY', P .. 'state', 'used', text(used))
settle_space()
-- Unless an older version moved the messages before these.
if tonumber(before[1] or '0') == tonumber(before[2] or '0') then redis.call('HSET', P .. 'state', 'named', last) end
redis.call('HSET', P .. 'state', 'moved', last)
return 1
