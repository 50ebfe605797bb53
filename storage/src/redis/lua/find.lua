-- Messages in the mailbox under an id. ARGV: 'open' or 'list', whose ('*' or '=sender'), id, MESSAGE_TTL.
-- open: sequence and record of the newest, or nothing. list: sequence, length, sender of each, newest first.
local all = found(ARGV[2], ARGV[3], tonumber(ARGV[4]))
if ARGV[1] == 'open' then
  if not all[1] then return false end
  return { all[1].seq, redis.call('GET', record_key(all[1].seq)) or '' }
end
local listed = {}
for _, one in ipairs(all) do
  if one.m then listed[#listed + 1] = { one.seq, text(one.m.len), one.m.party, one.m.class } end
end
return listed
