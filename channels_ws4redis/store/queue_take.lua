-- Takes the next message out of a queue, and drops what has waited too long.
-- KEYS: the queue
-- Returns the message with its deadline, or nil if there is none.
return answer(function()
  local entry
  repeat
    entry = call('LPOP', KEYS[1])
  until not entry or deadline(entry) >= now
  return entry
end)
