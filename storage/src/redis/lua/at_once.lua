-- The operator wants an attempt now, at whichever gateway delivers to the peers. ARGV: peers.
for _, peer in ipairs(ARGV) do note('y', 0, { party = peer, id = '-', len = 0, class = 0 }) end
publish()
return 1
