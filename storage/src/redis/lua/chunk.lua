-- Keeps a chunk of a message that is still being uploaded. ARGV: name of its chunks, number, content, seconds for which they are
-- kept, bytes that the whole message takes as far as that is known, STORE_MAX_BYTES.
-- Returns 1; or 0 if the chunk is no longer needed; or a negative number if there is no room: -1 minus the bytes in use.
local token, body = ARGV[1], body_key(ARGV[1])
local bytes, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
-- The message has been accepted in the meantime: this chunk came late, and nothing of the message may expire any more.
if redis.call('TTL', body) == -1 then return 0 end
if max_bytes > 0 then
  -- A message counts from its first chunk on, whichever gateway it comes through.
  local counted = tonumber(redis.call('HGET', P .. 'coming', token) or '0')
  if bytes > counted then
    local used = tonumber(redis.call('HGET', P .. 'state', 'used') or '0') + coming_bytes()
    if used + bytes - counted > max_bytes then return -1 - used end
    redis.call('HSET', P .. 'coming', token, text(bytes))
  end
end
redis.call('HSET', body, ARGV[2], ARGV[3])
redis.call('EXPIRE', body, ARGV[4])
return 1
