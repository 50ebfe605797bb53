-- Makes a pending message a dead letter. ARGV: peer, sequence, reason, DEAD_LETTER_MAX_BYTES.
-- Gives how many of the oldest letters had to go, or nothing: it was pending no more.
local gone = bury(ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]))
settle_space()
return gone or false
