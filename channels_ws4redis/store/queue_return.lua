-- Puts a message back where it was taken from, as whoever wanted it has gone meanwhile.
-- KEYS: the queue
-- ARGV: 1 the message with its deadline
return answer(function()
  local left = deadline(ARGV[1]) - now
  if left > 0 then
    call('LPUSH', KEYS[1], ARGV[1])
    keep_milliseconds(KEYS[1], left)
    wake(KEYS[1])
  end
  return 1
end)
