-- Reads all that is kept of a channel, and writes nothing.
-- KEYS: C, {C}:history, {C}:meta
-- ARGV: 1 seconds that {C}:meta lives at least
-- Returns epoch, offset, past, value, entries of the history, and the time in milliseconds. A key of
-- another type under one of the names counts as absent.
local epoch, offset, past = standing(KEYS[3])
local value, entries = redis.pcall('GET', KEYS[1]), {}
if type(value) == 'table' then value = false end
if epoch then
  entries = redis.pcall('XRANGE', KEYS[2], '-', '+')
  if entries.err then entries = {} end
else
  epoch = blank_epoch(KEYS[1], KEYS[2], ARGV[1])
end
return {epoch, offset, past, value, entries, milliseconds(0)}
