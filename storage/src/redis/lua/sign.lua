-- A write that changes nothing, so that its connection can wait for the replicas: they then have everything that was there
-- before. Deleted first, since that is allowed even when memory is full.
redis.call('HDEL', P .. 'state', 'sign')
redis.call('HSET', P .. 'state', 'sign', '1')
return 1
