-- Reads what is kept of a channel, and writes nothing.
-- KEYS: C, {C}:history, {C}:meta
-- ARGV: 1 seconds that {C}:meta lives at least, 2 whether to read the history and the value, as 0 or 1
-- Returns epoch, offset, past, entries of the history, value, the offset of the message whose payload was
-- put there last, and the time in milliseconds. A key of another type under one of the names counts as
-- absent.
local function read(name, history, meta)
  local epoch, offset, past = standing(meta)
  local stored, value, entries = nil, nil, {}
  if ARGV[2] == '1' then value = look('GET', name) end
  if epoch then
    local found = call('HMGET', meta, 'past', 'stored')
    past, stored = past or found[1] or '', found[2]
    if ARGV[2] == '1' then entries = look('XRANGE', history, '-', '+') or {} end
  else
    epoch, past = ask().blank_epoch(name, history, ARGV[1]), ''
  end
  return {epoch, offset, past, entries, value or false, stored or false, string.format('%.0f', now)}
end

return answer(read, unpack(KEYS))
