-- What all scripts have in common. This text stands before that of every other script file.

-- Errors are raised as the tables that redis.pcall returns. Redis before 7, which does not tell its
-- number, puts the codes of errors that redis.call raises into a sentence.
local call = redis.REDIS_VERSION_NUM and redis.call or function(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then error(reply) end
  return reply
end

-- Returns what a function returns, or its error as one of Redis's. Every script here ends with it.
local function answer(main, ...)
  local done, reply = pcall(main, ...)
  if not done and type(reply) == 'string' then return redis.error_reply(reply) end
  return reply
end

-- Has a key live for so many seconds at least.
local function keep_seconds(key, seconds)
  if call('TTL', key) < seconds then call('EXPIRE', key, seconds) end
end

-- Redis's user may have no right to a pub/sub channel. Redis before 7 says so only when it is too late.
local function require_publish(channel)
  if redis.acl_check_cmd and not redis.acl_check_cmd('PUBLISH', channel, '') then
    error({err = 'NOPERM ACL failure in script: no right to publish on ' .. channel})
  end
end
