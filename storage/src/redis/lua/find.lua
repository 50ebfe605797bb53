-- Messages in the mailbox with an id. ARGV: 'open' or 'list', whose ('*' or '=sender'), id, MESSAGE_TTL. Returns nothing if
-- there is none; for 'open' with a single message: sequence, record, 1 if it is unread, age in seconds; otherwise for each,
-- newest first: sequence, length, sender, class (empty if it is damaged), when it was last read (empty if never), age.
local all = found(ARGV[2], ARGV[3], tonumber(ARGV[4]))
if not all[1] then return false end
if ARGV[1] == 'open' and not all[2] then
  local one = all[1]
  return { one.seq, redis.call('GET', record_key(one.seq)) or '', read_at(one.seq) and 0 or 1, text(one.age) }
end
local listed = {}
for i, one in ipairs(all) do
  local m, first = one.m, redis.call('ZSCORE', P .. 'read', one.seq)
  -- The reads of all messages are in one order: 'seconds.count'.
  local last = first and (redis.call('HGET', P .. 'reread', one.seq) or string.format('%.6f', first)) or ''
  listed[i] = { one.seq, m and text(m.len) or '0', one.party, m and text(m.class) or '', last, text(one.age) }
end
return listed
