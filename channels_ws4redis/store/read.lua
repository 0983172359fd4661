-- Reads all that is kept of a channel, and writes nothing.
-- KEYS: C, {C}:history, {C}:meta
-- ARGV: 1 seconds that {C}:meta lives at least
-- Returns epoch, offset, past, value, entries of the history, and the time in milliseconds. A key of
-- another type under one of the names counts as absent.
local function read(name, history, meta)
  local epoch, offset, _, _, _, past = standing(meta)
  local value, entries = look('GET', name), {}
  if epoch then
    entries = look('XRANGE', history, '-', '+') or {}
    past = past or call('HMGET', meta, 'past')[1] or ''
  else
    epoch, past = ask().blank_epoch(name, history, ARGV[1]), ''
  end
  return {epoch, offset, past, value or false, entries, string.format('%.0f', now)}
end

return answer(read, unpack(KEYS))
