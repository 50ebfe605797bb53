-- A gateway starts, with its values of the settings that must be the same at all gateways. ARGV: gateway, its label, 'same' or
-- 'set', ms after which a silent gateway counts as gone, then name and value of each.
-- Returns the labels of the other running gateways if a setting differs, otherwise an empty text; all that is kept: name,
-- value...; and when the last of the others was heard from (ms).
local me, label, how, silence = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local kept, now, others, newest = P .. 'settings', now_ms(), {}, 0
local all = redis.call('HGETALL', P .. 'gateways')
for i = 1, #all, 2 do
  local seen, theirs = string.match(all[i + 1], '^(%d+)\n([^\n]*)')
  -- If another gateway had our label, it has died, and we are its restart.
  if all[i] ~= me and theirs ~= label and now - tonumber(seen) <= silence then
    others[#others + 1] = theirs
    newest = math.max(newest, tonumber(seen))
  end
end
if #others > 0 and how ~= 'set' then
  local differs = false
  for i = 5, #ARGV, 2 do
    local value = redis.call('HGET', kept, ARGV[i])
    differs = differs or (value and value ~= ARGV[i + 1])
  end
  if differs then
    table.sort(others)
    return { table.concat(others, ', '), redis.call('HGETALL', kept), text(newest) }
  end
end
-- The first write: allowed even when memory is full.
redis.call('HDEL', P .. 'gateways', me)
for i = 5, #ARGV, 2 do redis.call('HSET', kept, ARGV[i], ARGV[i + 1]) end
-- So that a gateway that starts at the same time sees this one before its first heartbeat.
redis.call('HSET', P .. 'gateways', me, text(now) .. '\n' .. label)
return { '', redis.call('HGETALL', kept), text(newest) }
