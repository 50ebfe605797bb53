-- Messages in the mailbox whose id begins so. ARGV: whose, prefix, after, matches at most, looks at most, MESSAGE_TTL.
-- Gives the sequence up to which it looked, or nothing when it saw all; then sequence, length, sender, class, id of each.
local from, prefix, ttl = ARGV[1], ARGV[2], tonumber(ARGV[6])
local matches, looks = tonumber(ARGV[4]), tonumber(ARGV[5])
local now = service_time()
local sequences = redis.call('ZRANGEBYSCORE', P .. 'mail', '(' .. ARGV[3], '+inf', 'LIMIT', 0, looks)
local all, up_to = {}, ''
if #sequences == looks then up_to = sequences[looks] end
for _, seq in ipairs(sequences) do
  local m = head(seq)
  if m and string.sub(m.id, 1, #prefix) == prefix and not is_expired(m, ttl, now)
    and (from == '*' or from == '=' .. m.party) then
    all[#all + 1] = { seq, text(m.len), m.party, m.class, m.id }
    if #all == matches then
      up_to = seq
      break
    end
  end
end
return { up_to, all }
