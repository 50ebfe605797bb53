-- Lists messages in the mailbox that are not listed yet: those of gateways of an older version. ARGV: maximum number of
-- messages.
-- Returns 1 if there are more.
local most = tonumber(ARGV[1])
local state = redis.call('HMGET', P .. 'state', 'named', 'seq')
local page = redis.call('ZRANGEBYSCORE', P .. 'mail', '(' .. (state[1] or '0'), '+inf', 'LIMIT', 0, most)
for _, seq in ipairs(page) do
  local m = head(seq)
  if m then list(seq, m) end
end
settle_space()
redis.call('HSET', P .. 'state', 'named', #page == most and page[most] or state[2] or '0')
return #page == most and 1 or 0
