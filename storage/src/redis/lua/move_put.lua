-- Keeps messages as they are. ARGV: per message sequence, fate (p pending, m mailbox, d dead letter), number, service time,
-- incarnation, what the gateway made of it, why it died. One that is here already stays as it is.
local used, last = 0, nil
for i = 1, #ARGV, 7 do
  local seq, fate, number, time = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local inc, made, why = ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]
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
      redis.call('HSET', P .. 'in', m.field, seq)
      redis.call('SADD', P .. 'senders', m.party)
    else
      redis.call('HSET', P .. 'why', seq, why .. '\0' .. m.party)
      redis.call('HSET', P .. 'letters', m.field, seq)
      redis.call('HINCRBY', P .. 'state', 'dead_bytes', text(m.len))
    end
  end
end
redis.call('HINCRBY', P .. 'state', 'used', text(used))
redis.call('HSET', P .. 'state', 'moved', last)
return 1
