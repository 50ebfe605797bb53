-- Ends pending messages. ARGV: peer, d (delivered) or o (dropped), sequences. Returns 1 or 0 for each.
local peer, type, ended = ARGV[1], ARGV[2], {}
for i = 3, #ARGV do ended[i - 2] = end_pending(peer, ARGV[i], type) and 1 or 0 end
settle_space()
if #events > 0 then publish() end
return ended
