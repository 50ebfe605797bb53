-- Removes chunks that nothing will refer to. ARGV: their name.
redis.call('UNLINK', body_key(ARGV[1]))
redis.call('HDEL', P .. 'coming', ARGV[1])
return 1
