-- Whether a gateway delivers to a peer, and no other may take that over yet. ARGV: gateway, peer, ms after which a silent
-- gateway counts as gone.
if redis.call('HGET', P .. 'leases', ARGV[2]) ~= ARGV[1] then return 0 end
local seen = tonumber(string.match(redis.call('HGET', P .. 'gateways', ARGV[1]) or '', '^%d+') or '0')
return now_ms() - seen <= tonumber(ARGV[3]) and 1 or 0
