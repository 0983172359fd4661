-- Stands before the text of every other script file.
-- Errors are raised as the tables that redis.pcall returns: Redis before 7 puts the codes of errors
-- that redis.call raises into a sentence.
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then error(reply) end
  return reply
end

