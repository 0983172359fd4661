-- What the scripts of named channels have in common. This text stands before queue_*.lua.
--
-- A queue is a list of messages, the next one first, each as "<deadline> <packed message>". Times are in
-- milliseconds since 1970 by the clock of Redis.
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- What another program has put into a queue has no deadline, and is left to whoever takes it.
local function deadline(entry)
  return tonumber(string.match(entry, '^(%d+) ')) or now
end

-- Has a key live for so many milliseconds at least. TTL rounds, hence one second more.
local function keep_milliseconds(key, milliseconds)
  keep_seconds(key, math.ceil(milliseconds / 1000) + 1)
end

-- Tells those who wait for a message of a queue. They listen on the pub/sub channel of its name, for a
-- message that is nil to msgpack.
local function wake(queue) call('PUBLISH', queue, '\192') end
