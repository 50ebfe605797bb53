-- Dead letters. ARGV: 'list', after, limit; or 'newest', limit; or 'drop', sequence; or 'of', receiver, id.
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
elseif ARGV[1] == 'newest' then
  sequences = redis.call('ZREVRANGE', P .. 'dead', 0, tonumber(ARGV[2]) - 1)
else
  sequences = redis.call('ZRANGEBYSCORE', P .. 'dead', '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
end
local all = {}
for _, seq in ipairs(sequences) do
  local m = head(seq)
  all[#all + 1] = { seq, redis.call('HGET', P .. 'why', seq) or '0', m and m.id or '', m and text(m.len) or '0' }
end
return all
