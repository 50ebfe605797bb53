-- Dead letters. Returns for each: sequence, why, id, length, class, seconds since it became one; the last two may be empty.
-- ARGV: 'list', after, limit; or 'newest', limit; or 'drop', sequence; or 'of', receiver, id; or 'unread', whose, id: the newest
-- one of the mailbox. 'drop' returns whether there was one.
if ARGV[1] == 'drop' then
  local m = head(ARGV[2])
  local gone = drop_letter(ARGV[2])
  if not gone then return 0 end
  drop(ARGV[2], m)
  settle_space()
  return 1
end
local sequences
if ARGV[1] == 'of' then
  sequences = { redis.call('HGET', P .. 'letters', ARGV[2] .. '\0' .. ARGV[3]) or nil }
elseif ARGV[1] == 'unread' then
  local newest
  for _, field in ipairs(fields_of(ARGV[2], ARGV[3])) do
    local seq = redis.call('HGET', P .. 'unread', field)
    if seq and (not newest or tonumber(seq) > tonumber(newest)) then newest = seq end
  end
  sequences = { newest }
elseif ARGV[1] == 'newest' then
  sequences = redis.call('ZREVRANGE', P .. 'dead', 0, tonumber(ARGV[2]) - 1)
else
  sequences = redis.call('ZRANGEBYSCORE', P .. 'dead', '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
end
local all, now = {}, service_time()
for _, seq in ipairs(sequences) do
  local m = head(seq)
  local died = redis.call('HGET', P .. 'died', seq)
  all[#all + 1] = {
    seq, redis.call('HGET', P .. 'why', seq) or '0', m and m.id or '', m and text(m.len) or '0',
    m and text(m.class) or '', died and text(math.max(now - tonumber(died), 0)) or '',
  }
end
return all
