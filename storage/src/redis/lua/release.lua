-- Ends messages that their reader no longer needs. ARGV: 'id', whose, id, MESSAGE_TTL; or 'these', sequences. Returns how many
-- there were.
local released = 0
if ARGV[1] == 'id' then
  for _, one in ipairs(found(ARGV[2], ARGV[3], tonumber(ARGV[4]))) do
    if end_mail(one.seq, one.m, 'r') then released = released + 1 end
  end
else
  for i = 2, #ARGV do
    if end_mail(ARGV[i], head(ARGV[i]), 'r') then released = released + 1 end
  end
end
settle_space()
if #events > 0 then publish() end
return released
