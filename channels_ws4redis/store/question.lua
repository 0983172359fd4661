-- Asks the processes that hear a channel how many sockets of theirs do.
-- ARGV: 1 the pub/sub channel {C}:events with what stands before it, 2 the channel C, 3 the question
-- Returns how many connections have got it that may be those of a process. A process hears both pub/sub
-- channels. A program that looks at one of them, or at all by a pattern, gets the question and does not answer.
return answer(function()
  local reached = call('PUBLISH', ARGV[1], ARGV[3])
  -- The right to ask this may be missing. Redis before 7 cannot tell in advance.
  if redis.acl_check_cmd and not redis.acl_check_cmd('PUBSUB', 'NUMSUB') then return reached end
  local heard = redis.pcall('PUBSUB', 'NUMSUB', ARGV[1], ARGV[2])
  if heard.err then return reached end
  return math.min(reached, heard[2], heard[4])
end)
