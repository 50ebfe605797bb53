-- Makes a pending message a dead letter. ARGV: peer, sequence, reason, DEAD_LETTER_MAX_BYTES.
-- Returns the oldest letters that had to be dropped (sequence, receiver, id, length of each), or nothing if it was no longer
-- pending.
local buried = bury(ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]))
settle_space()
return buried and letters_gone or false
