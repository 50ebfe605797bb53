-- Whether a delivery is known: 1 if it is; 2 if it comes from an incarnation that was forgotten, or may have been; else 0. ARGV:
-- sender, incarnation, number.
local who, inc, n = ARGV[1], ARGV[2], ARGV[3]
local mark = redis.call('HGET', P .. 'marks:' .. who, inc)
if mark and n < mark then return 1 end
local first = redis.call('ZRANGEBYLEX', P .. 'had:' .. inc .. ':' .. who, '[' .. n, '+', 'LIMIT', 0, 1)[1]
if first and string.sub(first, 18) <= n and n < string.sub(first, 1, 16) then return 1 end
if not mark then
  local floor = redis.call('HGET', P .. 'floors', who)
  if floor and inc <= floor then return 2 end
end
return 0
