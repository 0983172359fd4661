-- Puts a named channel into a group.
-- KEYS: the named channels of the group, a sorted set by the time at which each one's membership ends
-- ARGV: 1 the named channel, 2 milliseconds for which it is a member
return answer(function()
  local expiry = tonumber(ARGV[2])
  call('ZADD', KEYS[1], now + expiry, ARGV[1])
  keep_milliseconds(KEYS[1], expiry)
  return 1
end)
