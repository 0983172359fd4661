-- Deletes keys: one step of a scan, so that nobody has to wait for all of it.
-- ARGV: 1 the cursor of the scan, 2 the pattern of the keys
-- Returns the cursor for the next step, 0 after the last one.
return answer(function()
  local found = call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', 1000)
  for _, key in ipairs(found[2]) do call('DEL', key) end
  return found[1]
end)
