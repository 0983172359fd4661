-- Puts a message at the end of a queue, and drops what has waited too long at its beginning.
-- KEYS: the queue
-- ARGV: 1 the packed message, 2 messages that the queue has room for, 3 milliseconds that it may wait
-- Returns 1, or 0 if the queue is full.
return answer(function()
  local queue, room, expiry = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3])
  local first = call('LINDEX', queue, 0)
  while first and deadline(first) < now do
    call('LPOP', queue)
    first = call('LINDEX', queue, 0)
  end
  if call('LLEN', queue) >= room then return 0 end
  call('RPUSH', queue, string.format('%.0f ', now + expiry) .. ARGV[1])
  keep_milliseconds(queue, expiry)
  wake(queue)
  return 1
end)
