-- The pending message with an id. ARGV: receiver, id. Returns sequence and length, or nothing.
local seq = redis.call('HGET', P .. 'out', ARGV[1] .. '\0' .. ARGV[2])
local m = seq and head(seq)
if not m then return false end
return { seq, text(m.len) }
